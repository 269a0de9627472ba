package repo

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// Person is who a commit names.
type Person struct{ Name, Email string }

// clean keeps a name from breaking out of a commit header.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == '<' || r == '>' || r == 0x7f {
			return -1
		}
		return r
	}, s))
}

func (p Person) stamp(at time.Time) string {
	return fmt.Sprintf("%s <%s> %d %s", clean(p.Name), clean(p.Email), at.Unix(), at.Format("-0700"))
}

// NewCommit is a commit to be made. The committer is always the server.
type NewCommit struct {
	Tree    Hash
	Parents []Hash
	Author  Person // zero: the server
	At      time.Time
	// AuthoredAt is when it was first made, for a commit that replaces another; zero: At.
	AuthoredAt time.Time
	Message    string
}

// WriteCommit makes a commit signed by the server's key and stores it durably.
// It refers to nothing by itself: a ref must be moved to it.
func (r *Repository) WriteCommit(c NewCommit) (Hash, error) {
	return r.writeCommit(r.store.signer, c)
}

func (r *Repository) writeCommit(signer *Signer, c NewCommit) (Hash, error) {
	at := c.At.UTC().Truncate(time.Second)
	server := signer.Person
	author := c.Author
	if author == (Person{}) {
		author = server
	}
	tree := c.Tree
	var objects []Object
	if tree == Zero {
		o := TreeObject(nil)
		tree, objects = o.Hash(), append(objects, o)
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "tree %s\n", tree)
	for _, p := range c.Parents {
		fmt.Fprintf(&head, "parent %s\n", p)
	}
	authored := at
	if !c.AuthoredAt.IsZero() {
		authored = c.AuthoredAt.UTC().Truncate(time.Second)
	}
	fmt.Fprintf(&head, "author %s\ncommitter %s\n", author.stamp(authored), server.stamp(at))
	message := tidy(c.Message)
	signature, err := signer.Sign([]byte(head.String() + "\n" + message))
	if err != nil {
		return Zero, err
	}
	fmt.Fprintf(&head, "gpgsig %s\n\n%s", strings.ReplaceAll(strings.TrimSpace(signature), "\n", "\n "), message)
	o := Object{plumbing.CommitObject, head.Bytes()}
	return o.Hash(), r.Write(append(objects, o)...)
}

// WriteTag makes an annotated tag object on a commit, signed by the server's
// key, and stores it durably.
func (r *Repository) WriteTag(name string, commit Hash, at time.Time, message string) (Hash, error) {
	payload := fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger %s\n\n%s",
		commit, clean(name), r.store.signer.Person.stamp(at.UTC().Truncate(time.Second)), tidy(message))
	signature, err := r.store.signer.Sign([]byte(payload))
	if err != nil {
		return Zero, err
	}
	o := Object{plumbing.TagObject, []byte(payload + signature)}
	return o.Hash(), r.Write(o)
}

func tidy(message string) string {
	return strings.TrimSpace(strings.ReplaceAll(message, "\x00", "")) + "\n"
}

// Trailer is one "Key: value" line at the end of a message.
type Trailer struct{ Key, Value string }

// Message joins a subject, a body (may be empty) and trailers the way git
// reads them back. Newlines in a trailer's value become spaces.
func Message(subject, body string, trailers ...Trailer) string {
	var b strings.Builder
	b.WriteString(oneLine(subject) + "\n")
	if body = strings.TrimSpace(body); body != "" {
		b.WriteString("\n" + body + "\n")
	}
	if len(trailers) > 0 {
		b.WriteString("\n")
	}
	for _, t := range trailers {
		b.WriteString(t.Key + ": " + oneLine(t.Value) + "\n")
	}
	return b.String()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Trailers reads the last paragraph of a message. A message that is a subject
// alone has none.
func Trailers(message string) []Trailer {
	message = strings.TrimSpace(message)
	i := strings.LastIndex(message, "\n\n")
	if i < 0 {
		return nil
	}
	var ts []Trailer
	for _, line := range strings.Split(message[i+2:], "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok || strings.ContainsAny(key, " \t") {
			return nil
		}
		ts = append(ts, Trailer{key, value})
	}
	return ts
}

// TrailerValue is the value of the first trailer called key, empty if none.
func TrailerValue(message, key string) string {
	for _, t := range Trailers(message) {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}

// Subject is the first line of a message.
func Subject(message string) string {
	s, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return s
}
