// Package repo is the store of repositories: bare Git repositories in one
// directory, read and written by this process alone.
//
//   - Store opens and creates repositories, and sweeps what a kill left behind.
//   - Repository reads objects in process (go-git) and runs the git binary, in an
//     environment built from nothing, for whatever moves packs (git.go).
//   - Objects are written durably before anything refers to them (objects.go),
//     refs move one at a time by compare-and-swap through a long-lived
//     `git update-ref --stdin` (refs.go). A Move that returned nil survives a
//     power cut: the object, the ref and the ref's directory have been synced.
//   - Signer signs the commits and tags that the server makes (sign.go).
//
// What refs mean belongs to the rooms that own them: hooks and reconciler.
package repo
