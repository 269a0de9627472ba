package terminal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Writer passes on to w what is written to it, as Text makes it; newlines and
// carriage returns stay, for git draws its progress with them. It is meant for
// one goroutine.
func Writer(w io.Writer) io.Writer { return &writer{w: w} }

type writer struct {
	w    io.Writer
	part []byte // the beginning of a character whose end was not written yet
}

func (w *writer) Write(p []byte) (int, error) {
	data := append(w.part, p...)
	whole := len(data)
	for i := max(0, len(data)-utf8.UTFMax+1); i < len(data); i++ {
		if utf8.RuneStart(data[i]) && !utf8.FullRune(data[i:]) {
			whole = i
			break
		}
	}
	w.part = append([]byte(nil), data[whole:]...)

	var b strings.Builder
	for _, r := range string(data[:whole]) {
		if r == '\n' || r == '\r' || r == '\t' {
			b.WriteRune(r)
		} else {
			spell(&b, r)
		}
	}
	if _, err := io.WriteString(w.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// JSON writes v as one line. What is unsafe is escaped, which JSON allows
// everywhere inside its strings and needs nowhere else, for outside of strings
// such characters do not occur.
func JSON(w io.Writer, v any) error {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}

	var b strings.Builder
	for _, r := range strings.TrimSuffix(data.String(), "\n") {
		switch {
		case !Unsafe(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
