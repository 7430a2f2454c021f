"""The core beside etcd/raft v3.6.0: the same commands to both, everything they do and know compared after each.

`script.py` makes command scripts, `ours.py` runs them here, `etcd.go` runs them on etcd/raft, `__main__.py` builds that and compares:

    python -m tests.raft.lockstep --count 1000     compare (needs Go and its module proxy)
    python -m tests.raft.lockstep --record         write hashes of what etcd/raft printed to expected.txt

The test compares with those hashes, so it needs no Go. The copy of etcd/raft that is built is changed where we mean to differ: sizes
count an entry with its frame, as on the wire; inflight bytes are those sizes, not payloads; two mistakes are mended
(`reads.on_read_index` and `Raft.apply_conf_change` tell which). And its random timeout is made a fixed one.
"""
