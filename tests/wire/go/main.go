// Reads RaftMsgs from standard input, each behind its length (uint32, little endian). For every message in them prints one JSON line:
// what etcd/raft's own decoder found, and the same message as etcd/raft's own encoder writes it.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"go.etcd.io/raft/v3/raftpb"
)

type entry struct {
	Type  int32
	Term  uint64
	Index uint64
	Data  []byte
}

type told struct {
	Type       int32
	To         uint64
	From       uint64
	Term       uint64
	LogTerm    uint64
	Index      uint64
	Entries    []entry
	Commit     uint64
	Vote       uint64
	Snapshot   bool
	SnapIndex  uint64
	SnapTerm   uint64
	SnapData   []byte
	Voters     []uint64
	Learners   []uint64
	Outgoing   []uint64
	Next       []uint64
	AutoLeave  bool
	Reject     bool
	RejectHint uint64
	Context    []byte
	Encoded    []byte
}

func main() {
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var length uint32
		if err := binary.Read(in, binary.LittleEndian, &length); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(in, data); err != nil {
			log.Fatal(err)
		}
		for len(data) > 0 {
			tag, body, rest := field(data)
			data = rest
			if tag != 0x12 { // the epoch; a control message, which the original skips
				continue
			}
			var m raftpb.Message
			if err := m.Unmarshal(body); err != nil {
				log.Fatal(err)
			}
			if err := out.Encode(tell(&m)); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// field splits off the first field, which must be length-delimited, as all of a RaftMsg's are.
func field(data []byte) (tag uint64, body, rest []byte) {
	tag, n := binary.Uvarint(data)
	length, k := binary.Uvarint(data[n:])
	if n <= 0 || k <= 0 || tag&7 != 2 || length > uint64(len(data)-n-k) {
		log.Fatalf("not a RaftMsg: % x", data)
	}
	end := n + k + int(length)
	return tag, data[n+k : end], data[end:]
}

func tell(m *raftpb.Message) told {
	encoded, err := m.Marshal()
	if err != nil {
		log.Fatal(err)
	}
	t := told{
		Type: int32(m.Type), To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit, Vote: m.Vote,
		Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context, Encoded: encoded,
	}
	for _, e := range m.Entries {
		t.Entries = append(t.Entries, entry{int32(e.Type), e.Term, e.Index, e.Data})
	}
	if m.Snapshot != nil {
		md := m.Snapshot.Metadata
		t.Snapshot, t.SnapIndex, t.SnapTerm, t.SnapData = true, md.Index, md.Term, m.Snapshot.Data
		t.Voters, t.Learners = md.ConfState.Voters, md.ConfState.Learners
		t.Outgoing, t.Next, t.AutoLeave = md.ConfState.VotersOutgoing, md.ConfState.LearnersNext, md.ConfState.AutoLeave
	}
	return t
}
