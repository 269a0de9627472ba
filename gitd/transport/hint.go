package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// What git itself refuses, before a hook has a say, it refuses in its own words,
// without a way out. A hint of ours is put behind them.

// gitRefusals are texts of git 2.x on the server's side, and what to do about them.
var gitRefusals = []struct{ text, hint string }{
	{"pack exceeds maximum allowed size", fmt.Sprintf(
		"one push may bring %d MiB at most; push the history in parts: git push origin <an older commit>:refs/heads/<branch>, then the rest",
		repo.MaxPush>>20)},
	{"shallow update not allowed", "your clone lacks a part of the history: git fetch --unshallow, then push again"},
	{"fsck error in pack", "the object is not what git itself would make; " +
		"git log --all --find-object=<its id> finds the commit that brings it, which has to be made again"},
	{"Out of memory", memoryHint},
	{"out of memory", memoryHint},
	{"No space left on device", "the server's disk is full and nothing was changed; tell an administrator of this server"},
}

// longestRefusal is at least the length of the longest of their texts.
const longestRefusal = 80

var memoryHint = fmt.Sprintf(
	"what a push unpacks to may take %d MiB of memory at most; push less at once, or without the largest files", maxMemory>>20)

// hinter passes on what receive-pack says to a client, packet by packet, with hints
// among it. What is not in packets of a side band passes as it is.
type hinter struct {
	to    io.Writer
	part  []byte    // of a packet whose end has not come
	said  [3]string // the end of what each band has said: git cuts its texts anywhere
	given map[string]bool
	plain bool // there are no packets
}

func (h *hinter) Write(p []byte) (int, error) {
	if h.plain {
		return h.to.Write(p)
	}
	h.part = append(h.part, p...)
	var out bytes.Buffer
	for len(h.part) >= 4 {
		from := bytes.NewReader(h.part)
		packets := pktline.NewScanner(from)
		if !packets.Scan() {
			if err := packets.Err(); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break // more of it comes
			}
			h.plain = true
			out.Write(h.part)
			h.part = nil
			break
		}
		sent := h.part[:len(h.part)-from.Len()]
		before, after := h.hints(packets.Bytes())
		out.WriteString(before)
		out.Write(sent)
		out.WriteString(after)
		h.part = h.part[len(sent):]
	}
	if _, err := h.to.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hints are for before and after a packet. There is a band for people, and one for
// the report, which ends what they read: a hint about that goes before it.
func (h *hinter) hints(content []byte) (before, after string) {
	if len(content) == 0 || content[0] != 1 && content[0] != 2 {
		return "", ""
	}
	band := content[0]
	said := h.said[band] + string(content[1:])
	h.said[band] = said[max(0, len(said)-longestRefusal):]
	hint := hintAbout(said)
	if hint == "" || h.given[hint] {
		return "", ""
	}
	if h.given == nil {
		h.given = map[string]bool{}
	}
	h.given[hint] = true
	if band == 1 {
		return sideband(hint), ""
	}
	return "", sideband(hint)
}

func hintAbout(said string) string {
	for _, r := range gitRefusals {
		if strings.Contains(said, r.text) {
			return r.hint
		}
	}
	return ""
}

// sideband is a line for people.
func sideband(hint string) string {
	text := "\x02hint: " + hint + "\n"
	return fmt.Sprintf("%04x%s", len(text)+4, text)
}
