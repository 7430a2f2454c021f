// Drives etcd's own WAL package, so that its files can be compared with ours.
//
//	write DIR SEGMENT_BYTES     saves what comes as JSON lines on stdin: {"state", "entries"} or {"snapshot"}
//	read DIR INDEX TERM         opens as a server does and prints {"state", "entries", "error"}
//	verify DIR INDEX TERM       etcd's Verify; prints "ok" or its error
//	repair DIR                  etcd's Repair; prints true or false
//	bench DIR BATCH BYTES N     saves N batches; prints nanoseconds a save, one a line
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

type state struct {
	Term   uint64 `json:"term"`
	Vote   uint64 `json:"vote"`
	Commit uint64 `json:"commit"`
}

type entry struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	Type  int32  `json:"type"`
	Data  []byte `json:"data"`
}

type snapshot struct {
	Index  uint64   `json:"index"`
	Term   uint64   `json:"term"`
	Voters []uint64 `json:"voters"`
}

type line struct {
	State    *state    `json:"state"`
	Entries  []entry   `json:"entries"`
	Snapshot *snapshot `json:"snapshot"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	must(err)
	return n
}

func write(dir string, segmentBytes int64) {
	wal.SegmentSizeBytes = segmentBytes
	var w *wal.WAL
	var err error
	if wal.Exist(dir) {
		w, err = wal.Open(zap.NewNop(), dir, walpb.Snapshot{})
		must(err)
		_, _, _, err = w.ReadAll()
	} else {
		w, err = wal.Create(zap.NewNop(), dir, nil)
	}
	must(err)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<28)
	for in.Scan() {
		var l line
		must(json.Unmarshal(in.Bytes(), &l))
		if l.Snapshot != nil {
			s := walpb.Snapshot{Index: l.Snapshot.Index, Term: l.Snapshot.Term}
			if l.Snapshot.Voters != nil {
				s.ConfState = &raftpb.ConfState{Voters: l.Snapshot.Voters}
			}
			must(w.SaveSnapshot(s))
			continue
		}
		var hs raftpb.HardState
		if l.State != nil {
			hs = raftpb.HardState{Term: l.State.Term, Vote: l.State.Vote, Commit: l.State.Commit}
		}
		entries := make([]raftpb.Entry, len(l.Entries))
		for i, e := range l.Entries {
			entries[i] = raftpb.Entry{Term: e.Term, Index: e.Index, Type: raftpb.EntryType(e.Type), Data: e.Data}
			if len(e.Data) == 0 {
				entries[i].Data = nil
			}
		}
		must(w.Save(hs, entries))
	}
	must(in.Err())
	must(w.Close())
}

func read(dir string, at walpb.Snapshot) {
	out := struct {
		State   state   `json:"state"`
		Entries []entry `json:"entries"`
		Error   string  `json:"error"`
	}{Entries: []entry{}}
	w, err := wal.Open(zap.NewNop(), dir, at)
	if err == nil {
		var hs raftpb.HardState
		var entries []raftpb.Entry
		_, hs, entries, err = w.ReadAll()
		out.State = state{hs.Term, hs.Vote, hs.Commit}
		for _, e := range entries {
			out.Entries = append(out.Entries, entry{e.Term, e.Index, int32(e.Type), e.Data})
		}
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		out.Error = err.Error()
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}

func bench(dir string, batch, size, n int) {
	w, err := wal.Create(zap.NewNop(), dir, nil)
	must(err)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	index := uint64(1)
	out := bufio.NewWriter(os.Stdout)
	for i := 0; i < n; i++ {
		entries := make([]raftpb.Entry, batch)
		for j := range entries {
			entries[j] = raftpb.Entry{Term: 1, Index: index, Data: data}
			index++
		}
		begun := time.Now()
		must(w.Save(raftpb.HardState{}, entries))
		fmt.Fprintln(out, time.Since(begun).Nanoseconds())
	}
	must(out.Flush())
	must(w.Close())
}

func main() {
	switch args := os.Args; args[1] {
	case "write":
		write(args[2], int64(number(args[3])))
	case "read":
		read(args[2], walpb.Snapshot{Index: number(args[3]), Term: number(args[4])})
	case "verify":
		if _, err := wal.Verify(zap.NewNop(), args[2], walpb.Snapshot{Index: number(args[3]), Term: number(args[4])}); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	case "repair":
		fmt.Println(wal.Repair(zap.NewNop(), args[2]))
	case "bench":
		bench(args[2], int(number(args[3])), int(number(args[4])), int(number(args[5])))
	default:
		fmt.Fprintln(os.Stderr, "unknown command", args[1])
		os.Exit(2)
	}
}
