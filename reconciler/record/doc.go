// Package record knows what the commits of an environment say: it is the one
// place that writes, reads and verifies them.
//
//   - Promotion is the message of a commit of env/<environment>, or of the
//     proposal at promote/<environment>: a release that goes there, or back, with
//     the decision and the approvals behind it.
//   - Manifest and Hold are the files that the server adds to an environment's
//     tree: apps/<application>/release.json and holds/<application>.json.
//   - Outcome is the note on a commit of an environment: what happened to it.
//   - Commit is all of that, read; Tip and History read a branch.
//   - Verify proves a clone's environments from their commits and nothing else.
//
// What is written reads back equal, and nothing that is not written here counts:
// a trailer with a slip in it is no approval. Who may promote what, and when, is
// decided elsewhere.
package record
