// Package agent is the process that converges one machine, and how it is spoken to.
//
// What runs must not notice the server. So it is the agent's: a process of its own,
// which the server starts for its machine and does not end. Stopping, killing or
// replacing the server touches nothing that runs; stopping the agent does.
//
//   - Handler answers the protocol for a target that runs here; Target is that target
//     for somebody at the other end. The protocol is HTTP over any connection: a unix
//     socket for the machine's own agent. Each stream has a heartbeat, and while it
//     is silent everything is Unknown.
//   - Supervise is the process `headgate agent`: it holds the directory's lock and the
//     listeners, and starts the worker that does everything else (Work). The worker may
//     die, or give way to one of another program, while connections wait.
//   - Start finds the agent of a directory, or starts one.
//
// What converges, and what is kept on disk about it, is the matter of
// reconciler/target/services.
package agent
