// Runs the command scripts of script.py on etcd/raft and prints everything, in the form that ours.py prints it in too. __main__.py puts
// this file into a copy of its package, whose internals it looks at.

package raft

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// frameSize is what an entry takes in a message: the entry with its tag and length.
func frameSize(e *pb.Entry) int {
	size, width := e.Size(), 1
	for n := size; n >= 0x80; n >>= 7 {
		width++
	}
	return 1 + width + size
}

// fixedTimeout takes the place of a random one.
func fixedTimeout(r *raft) int { return int(r.id*3) % r.electionTimeout }

// isOnlyVoter tells whether this node's word is the quorum's.
func isOnlyVoter(r *raft) bool {
	_, voter := r.trk.Voters.IDs()[r.id]
	return voter && r.trk.IsSingleton()
}

// answeredByOnlyVoter answers a read that waited for the term's first commit, where nobody else is to be asked.
func answeredByOnlyVoter(r *raft, m pb.Message) bool {
	if !isOnlyVoter(r) {
		return false
	}
	if resp := r.responseToReadIndexReq(m, r.raftLog.committed); resp.To != None {
		r.send(resp)
	}
	return true
}

// applyUnlessSuperseded leaves the members alone while a snapshot, which has them already, waits to be applied.
func applyUnlessSuperseded(r *raft, cc pb.ConfChangeV2) pb.ConfState {
	if r.raftLog.hasNextOrInProgressSnapshot() {
		return r.trk.ConfState()
	}
	return r.applyConfChange(cc)
}

type member struct {
	id      uint64
	rn      *RawNode
	st      *MemoryStorage
	cfg     Config
	applied uint64
	cs      pb.ConfState
	appq    []pb.Message
	applyq  []pb.Message
}

type group struct {
	w     *bufio.Writer
	nodes map[uint64]*member
	net   []pb.Message
	opt   map[string]int
	n     int
}

type silent struct{}

func (silent) Debug(v ...interface{})                   {}
func (silent) Debugf(format string, v ...interface{})   {}
func (silent) Error(v ...interface{})                   {}
func (silent) Errorf(format string, v ...interface{})   {}
func (silent) Info(v ...interface{})                    {}
func (silent) Infof(format string, v ...interface{})    {}
func (silent) Warning(v ...interface{})                 {}
func (silent) Warningf(format string, v ...interface{}) {}
func (silent) Fatal(v ...interface{})                   { panic(fmt.Sprint(v...)) }
func (silent) Fatalf(format string, v ...interface{})   { panic(fmt.Sprintf(format, v...)) }
func (silent) Panic(v ...interface{})                   { panic(fmt.Sprint(v...)) }
func (silent) Panicf(format string, v ...interface{})   { panic(fmt.Sprintf(format, v...)) }

func (d *group) mk(id uint64, st *MemoryStorage, applied uint64) *member {
	o := d.opt
	c := Config{ID: id, ElectionTick: 10, HeartbeatTick: 2, Storage: st, Applied: applied,
		AsyncStorageWrites: o["async"] == 1, MaxSizePerMsg: uint64(o["maxsize"]), MaxCommittedSizePerReady: uint64(o["maxcommitted"]),
		MaxUncommittedEntriesSize: uint64(o["maxuncommitted"]), MaxInflightMsgs: o["inflight"], MaxInflightBytes: uint64(o["inflightbytes"]),
		CheckQuorum: o["checkquorum"] == 1, PreVote: o["prevote"] == 1, DisableProposalForwarding: o["noforward"] == 1,
		DisableConfChangeValidation: o["novalidate"] == 1, StepDownOnRemoval: o["stepdown"] == 1, Logger: silent{}}
	if o["lease"] == 1 {
		c.ReadOnlyOption = ReadOnlyLeaseBased
	}
	rn, err := NewRawNode(&c)
	if err != nil {
		panic(err)
	}
	return &member{id: id, rn: rn, st: st, cfg: c}
}

func tgt(id uint64) string {
	switch id {
	case LocalAppendThread:
		return "A"
	case LocalApplyThread:
		return "P"
	}
	return strconv.FormatUint(id, 10)
}

func dent(e pb.Entry) string {
	data := string(e.Data)
	if e.Type != pb.EntryNormal {
		var cc pb.ConfChangeI
		if e.Type == pb.EntryConfChange {
			c := pb.ConfChange{}
			_ = c.Unmarshal(e.Data)
			cc = c
		} else {
			c := pb.ConfChangeV2{}
			_ = c.Unmarshal(e.Data)
			cc = c
		}
		v2 := cc.AsV2()
		data = fmt.Sprintf("%d:%s", int(v2.Transition), pb.ConfChangesToString(v2.Changes))
	}
	return fmt.Sprintf("%d/%d/%d/%s", e.Term, e.Index, int(e.Type), data)
}

func dents(es []pb.Entry) string {
	var out []string
	for _, e := range es {
		out = append(out, dent(e))
	}
	return "[" + strings.Join(out, ",") + "]"
}

func ids(v []uint64) string { return fmt.Sprint(v) }

func dcs(cs pb.ConfState) string {
	return fmt.Sprintf("%s%s%s%s%t", ids(cs.Voters), ids(cs.Learners), ids(cs.VotersOutgoing), ids(cs.LearnersNext), cs.AutoLeave)
}

func dsnap(s *pb.Snapshot) string {
	if s == nil || IsEmptySnap(*s) {
		return "-"
	}
	return fmt.Sprintf("%d/%d %s", s.Metadata.Term, s.Metadata.Index, dcs(s.Metadata.ConfState))
}

func dmsg(m pb.Message) string {
	ctx := string(m.Context)
	es := m.Entries
	if m.Type == pb.MsgReadIndex || m.Type == pb.MsgReadIndexResp {
		ctx = string(es[0].Data)
		es = nil
	}
	b := fmt.Sprintf("%s>%s t%d T%d L%d/%d C%d V%d R%t H%d X%q E%s S%s", tgt(m.From), tgt(m.To), int(m.Type), m.Term, m.LogTerm, m.Index,
		m.Commit, m.Vote, m.Reject, m.RejectHint, ctx, dents(es), dsnap(m.Snapshot))
	if len(m.Responses) > 0 {
		var out []string
		for _, r := range m.Responses {
			out = append(out, dmsg(r))
		}
		b += " {" + strings.Join(out, ";") + "}"
	}
	return b
}

func (d *group) apply(n *member, es []pb.Entry) {
	for _, e := range es {
		var cs *pb.ConfState
		switch e.Type {
		case pb.EntryConfChange:
			c := pb.ConfChange{}
			if err := c.Unmarshal(e.Data); err != nil {
				panic(err)
			}
			cs = n.rn.ApplyConfChange(c)
		case pb.EntryConfChangeV2:
			c := pb.ConfChangeV2{}
			if err := c.Unmarshal(e.Data); err != nil {
				panic(err)
			}
			cs = n.rn.ApplyConfChange(c)
		}
		if cs != nil {
			n.cs = *cs
		}
		n.applied = e.Index
	}
}

func (d *group) snap(n *member, s pb.Snapshot) {
	if IsEmptySnap(s) {
		return
	}
	if err := n.st.ApplySnapshot(s); err != nil {
		fmt.Fprintln(d.w, "  applysnap err")
	}
	n.applied = s.Metadata.Index
	n.cs = s.Metadata.ConfState
}

func (d *group) route(n *member, m pb.Message) {
	switch m.To {
	case LocalAppendThread:
		n.appq = append(n.appq, m)
	case LocalApplyThread:
		n.applyq = append(n.applyq, m)
	default:
		if m.To == n.id {
			err := n.rn.Step(m)
			if err != nil && err != ErrStepPeerNotFound {
				panic(err)
			}
			return
		}
		d.net = append(d.net, m)
	}
}

func (d *group) ready(n *member) {
	if !n.rn.HasReady() {
		fmt.Fprintln(d.w, "  no ready")
		return
	}
	rd := n.rn.Ready()
	ss := "-"
	if rd.SoftState != nil {
		ss = fmt.Sprintf("%d:%d", rd.SoftState.Lead, int(rd.SoftState.RaftState))
	}
	hs := "-"
	if !IsEmptyHardState(rd.HardState) {
		hs = fmt.Sprintf("%d,%d,%d", rd.HardState.Term, rd.HardState.Vote, rd.HardState.Commit)
	}
	rs := ""
	for _, r := range rd.ReadStates {
		rs += fmt.Sprintf("%d:%s ", r.Index, string(r.RequestCtx))
	}
	fmt.Fprintf(d.w, "  rd ss=%s hs=%s rs=%s ents=%s snap=%s comm=%s sync=%t\n", ss, hs, rs, dents(rd.Entries), dsnap(&rd.Snapshot),
		dents(rd.CommittedEntries), rd.MustSync)
	for _, m := range rd.Messages {
		fmt.Fprintf(d.w, "    %s\n", dmsg(m))
	}
	if d.opt["async"] == 1 {
		for _, m := range rd.Messages {
			d.route(n, m)
		}
		return
	}
	if !IsEmptyHardState(rd.HardState) {
		_ = n.st.SetHardState(rd.HardState)
	}
	d.snap(n, rd.Snapshot)
	if err := n.st.Append(rd.Entries); err != nil {
		panic(err)
	}
	for _, m := range rd.Messages {
		d.route(n, m)
	}
	d.apply(n, rd.CommittedEntries)
	n.rn.Advance(rd)
}

func (d *group) state(n *member) {
	r := n.rn.raft
	l := r.raftLog
	fmt.Fprintf(d.w, "  %d T%d V%d L%d S%d c%d ap%d/%d last%d/%d pc%d lt%d un%d e%d h%d off%d/%d cfg=%s", n.id, r.Term, r.Vote, r.lead, int(r.state),
		l.committed, l.applying, l.applied, l.lastEntryID().term, l.lastIndex(), r.pendingConfIndex, r.leadTransferee, r.uncommittedSize,
		r.electionElapsed, r.heartbeatElapsed, l.unstable.offset, l.unstable.offsetInProgress, dcs(r.trk.ConfState()))
	r.trk.Visit(func(id uint64, pr *tracker.Progress) {
		fmt.Fprintf(d.w, " {%d m%d n%d s%d p%t ps%d ra%t if%d l%t}", id, pr.Match, pr.Next, int(pr.State), pr.MsgAppFlowPaused, pr.PendingSnapshot, pr.RecentActive,
			pr.Inflights.Count(), pr.IsLearner)
	})
	fmt.Fprintln(d.w)
}

func (d *group) exec(line string) {
	f := strings.Fields(line)
	a := make([]int, len(f))
	for i := 1; i < len(f); i++ {
		a[i], _ = strconv.Atoi(f[i])
	}
	var n *member
	if len(f) > 1 {
		n = d.nodes[uint64(a[1])]
	}
	var err error
	switch f[0] {
	case "tick":
		for i := 0; i < a[2]; i++ {
			n.rn.Tick()
		}
	case "campaign":
		err = n.rn.Campaign()
	case "propose": // propose id count size
		m := pb.Message{Type: pb.MsgProp, From: n.id}
		for i := 0; i < a[2]; i++ {
			d.n++
			data := fmt.Sprintf("%0*d", a[3], d.n)
			if a[3] == 0 {
				data = ""
			}
			e := pb.Entry{}
			if len(data) > 0 {
				e.Data = []byte(data)
			}
			m.Entries = append(m.Entries, e)
		}
		err = n.rn.Step(m)
	case "cc1": // cc1 id v3
		ccs, _ := pb.ConfChangesFromString(f[2])
		err = n.rn.ProposeConfChange(pb.ConfChange{Type: ccs[0].Type, NodeID: ccs[0].NodeID})
	case "cc2": // cc2 id transition v3 l4 ...
		ccs, _ := pb.ConfChangesFromString(strings.Join(f[3:], " "))
		err = n.rn.ProposeConfChange(pb.ConfChangeV2{Transition: pb.ConfChangeTransition(a[2]), Changes: ccs})
	case "read":
		n.rn.ReadIndex([]byte(f[2]))
	case "transfer":
		n.rn.TransferLeader(uint64(a[2]))
	case "forget":
		err = n.rn.ForgetLeader()
	case "unreachable":
		n.rn.ReportUnreachable(uint64(a[2]))
	case "snapstatus":
		s := SnapshotFinish
		if a[3] == 0 {
			s = SnapshotFailure
		}
		n.rn.ReportSnapshot(uint64(a[2]), s)
	case "ready":
		d.ready(n)
	case "append":
		if len(n.appq) == 0 {
			fmt.Fprintln(d.w, "  empty")
			break
		}
		m := n.appq[0]
		n.appq = n.appq[1:]
		hs := pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		if !IsEmptyHardState(hs) {
			_ = n.st.SetHardState(hs)
		}
		if m.Snapshot != nil {
			d.snap(n, *m.Snapshot)
		}
		if e := n.st.Append(m.Entries); e != nil {
			panic(e)
		}
		for _, r := range m.Responses {
			d.route(n, r)
		}
	case "apply":
		if len(n.applyq) == 0 {
			fmt.Fprintln(d.w, "  empty")
			break
		}
		m := n.applyq[0]
		n.applyq = n.applyq[1:]
		d.apply(n, m.Entries)
		for _, r := range m.Responses {
			d.route(n, r)
		}
	case "deliver", "dup", "drop": // deliver k
		n = nil
		if len(d.net) == 0 {
			fmt.Fprintln(d.w, "  empty")
			break
		}
		k := a[1] % len(d.net)
		m := d.net[k]
		if f[0] == "drop" || f[0] == "deliver" {
			d.net = append(append([]pb.Message{}, d.net[:k]...), d.net[k+1:]...)
		}
		if f[0] == "drop" {
			break
		}
		n = d.nodes[m.To]
		if n == nil {
			break
		}
		err = n.rn.Step(m)
		if err == ErrStepPeerNotFound {
			err = nil
		}
	case "compact": // compact id keep
		fi, _ := n.st.FirstIndex()
		si := n.st.snapshot.Metadata.Index
		if n.applied > si && n.applied >= fi {
			if _, e := n.st.CreateSnapshot(n.applied, &n.cs, nil); e != nil {
				panic(e)
			}
			to := int(n.applied) - a[2]
			if to >= int(fi) {
				if e := n.st.Compact(uint64(to)); e != nil {
					panic(e)
				}
			}
		}
	case "restart":
		si := n.st.snapshot.Metadata.Index
		m := d.mk(n.id, n.st, si)
		m.applied = si
		m.cs = n.st.snapshot.Metadata.ConfState
		d.nodes[n.id] = m
		n = m
	default:
		panic("bad command " + line)
	}
	if err != nil {
		fmt.Fprintln(d.w, "  dropped")
	}
	if n != nil {
		d.state(n)
	}
}

// RunLockstep runs command scripts and prints what came of each command.
func RunLockstep(in io.Reader, out io.Writer) {
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 1<<20), 1<<20)
	w := bufio.NewWriter(out)
	defer w.Flush()
	var d *group
	dead := false
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			continue
		}
		fmt.Fprintf(w, "> %s\n", line)
		if strings.HasPrefix(line, "init") {
			dead = false
			d = &group{w: w, nodes: map[uint64]*member{}, opt: map[string]int{}}
			for _, kv := range strings.Fields(line)[1:] {
				p := strings.Split(kv, "=")
				d.opt[p[0]], _ = strconv.Atoi(p[1])
			}
			for id := uint64(1); id <= uint64(d.opt["nodes"]); id++ {
				d.nodes[id] = d.mk(id, NewMemoryStorage(), 0)
				if id <= uint64(d.opt["voters"]) {
					var peers []Peer
					for p := uint64(1); p <= uint64(d.opt["voters"]); p++ {
						peers = append(peers, Peer{ID: p})
					}
					if err := d.nodes[id].rn.Bootstrap(peers); err != nil {
						panic(err)
					}
				}
			}
			continue
		}
		if dead {
			continue
		}
		func() {
			defer func() {
				if e := recover(); e != nil {
					fmt.Fprintf(w, "  PANIC\n")
					if d.opt["why"] == 1 {
						fmt.Fprintf(w, "%v\n", e)
					}
					dead = true
				}
			}()
			d.exec(line)
		}()
	}
}
