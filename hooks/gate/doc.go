// Package gate lets changes in: a gated branch moves only to a commit whose
// exact tree has a green verdict.
//
//   - Gate accepts proposals, tells their progress, and runs one loop for each
//     repository. A loop owns its repository's queue; builds, proposals and
//     wakes are posted to its mailbox.
//   - What to do next is decided by package plan, which is pure. The loop makes
//     the candidates (candidate.go), has them built (work.go), lands them
//     (land.go) after asserting what must hold (assert.go), and publishes what
//     happened (follow.go).
//   - Everything that matters is in refs: at start the queue is read back from
//     the changes' logs (recover.go), and lost builds are built again.
//
// How a build runs is the Builder's; what a policy says is Ask's; what a
// repository's headgate.yaml says is Settings'. Who may propose is decided
// before Propose is called.
package gate
