// Package receive is what a push meets: the daemon's side of git's hooks.
//
//   - Listener answers the hook program (cmd/headgate-hook) on a unix socket and
//     knows, by the token that the front door gave to receive-pack, who pushes
//     to which repository (listener.go).
//   - pre-receive judges, while the objects are in quarantine: names, server-owned
//     refs, mixed pushes, the policy question `push`, the files of the pushed
//     tree (prereceive.go, validate.go, policy.go, check.go). A refusal leaves nothing behind.
//   - proc-receive acts: ungated refs move by compare-and-swap, proposals go to
//     the gate and are followed, a push to an environment approves its promotion
//     (procreceive.go, follow.go). "ok" is written after the ref has moved.
//   - reporter writes the pusher's "remote: " lines (reporter.go).
//   - InstallHooks puts the hook program where every git finds it.
//
// One push is decided as a whole: when one of its refs is refused in pre-receive,
// none of them moves, atomic or not. Later, a ref that has moved meanwhile is
// refused alone, unless the push is atomic: then the refs that this push moved
// are moved back. That is not atomic against a kill of the server between two
// moves: such a push leaves each ref either where it was or where it was pushed.
//
// What a change is, how it lands and what an environment is, is decided
// elsewhere: Gate and Environments are given to the Listener.
package receive
