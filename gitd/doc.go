// Package gitd is Headgate's SSH daemon, through which git fetches and pushes and
// in which people run commands.
//
//   - Server accepts connections (server.go), admits so many at a time
//     (admission.go, connection.go), proves who is there by public key and
//     nothing else (auth.go), and runs one program for each session (session.go).
//   - git's own programs run in gitd/transport (git.go).
//   - Everything else is a command of gitd/shell.
//   - Logins keeps the one-time codes with which a user of the SSH daemon opens a
//     session of the console (login.go).
//
// Goroutines: one per connection, one per session for its requests, one for its
// program and one for its keepalives. Serve returns only when all of them, and
// those of gitd/transport, have ended.
package gitd
