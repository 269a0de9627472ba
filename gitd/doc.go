// Package gitd is Headgate's front door for git and ssh: one SSH daemon in
// which git fetches and pushes, and in which people run commands.
//
//   - Server accepts connections, proves who is there by public key and nothing
//     else, and runs one program for each session (server.go, door.go, auth.go,
//     session.go).
//   - git's own verbs run the git binary on a repository of the store (git.go).
//   - Everything else is a command of the table in command.go; each family of
//     commands has its own file. They show the facts of gitd/show.
//   - Logins keeps the one-time codes with which a user of the SSH daemon opens a
//     session of the console (login.go).
//
// Whether a push is allowed is decided behind the hooks; this package only sees
// that the pusher may read the repository, hands over who they are (Begin), and
// moves bytes. It writes no ref.
//
// Goroutines: one per connection, one per session for its requests and one for
// its program, one for its keepalives, three per git child for its pipes. Serve returns only when all of them have ended.
package gitd
