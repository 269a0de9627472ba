// Package event tells other programs what happens: signed webhooks (Standard
// Webhooks) whose bodies are CDEvents 0.5.1.
//
//   - Event is one thing that happened (event.go); it has the same ID however
//     often it is read.
//   - Sender reads events from the moves of refs (feed.go), puts them into the
//     outbox of each endpoint of server.yaml, and delivers them (endpoint.go).
//
// Nothing announces an event: it is read from the commits by which refs moved
// since the feed last looked. A kill between a move and its event loses
// nothing; a kill between an event and its place in the feed puts it into the
// outboxes a second time, where its ID is known. What a ref's commits mean is
// for the Readers: those of changes and releases are here, those of
// environments are handed in.
package event
