package buildlog

import (
	"encoding/json"
	"testing"
)

// FuzzEvent: however an event is written, it is as encoding/json writes it, and is read as it
// was.
func FuzzEvent(f *testing.F) {
	for _, text := range []string{"", "ok", `"quoted" \ back`, "<a> & b", "\x1b[31mred\x1b[0m\t", "žluť", "\xff", "\x7f", `a","n":2`, "}"} {
		f.Add("out", int64(12), 3, text)
	}
	f.Add("note", int64(0), 0, "a note")
	f.Add("out", int64(-1), -1, "x")
	f.Fuzz(func(t *testing.T, kind string, at int64, step int, text string) {
		e := Event{Kind: Kind(kind), At: at, Step: step, Text: text}
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := encode([]byte("before\n"), e)
		if err != nil || string(got) != "before\n"+string(want)+"\n" {
			t.Errorf("%q is written %q, want %q; %v", text, got, want, err)
		}
		var read Event
		if err := json.Unmarshal(want, &read); err != nil {
			t.Fatal(err)
		}
		if back, err := decode(append(want, '\n')); err != nil || back != read {
			t.Errorf("%s is read %+v, want %+v; %v", want, back, read, err)
		}
	})
}

// FuzzDecode: any line is read as encoding/json reads it.
func FuzzDecode(f *testing.F) {
	for _, line := range []string{
		`{"k":"out","t":1,"n":2,"s":"x"}`, `{"k":"out","t":1,"n":2,"s":"x","exit":3}`, `{"k":"out","t":1,"n":2,"s":"x"`,
		`{"k":"out","t":,"n":2,"s":"x"}`, `{"k":"out","t":01,"n":2,"s":"x"}`, `{"k":"out","t":99999999999999999999,"n":2,"s":"x"}`,
		`{"k":"out","t":1,"n":2,"s":"x","s":"y"}`, "",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var want Event
		wantErr := json.Unmarshal([]byte(line+"\n"), &want)
		got, err := decode([]byte(line + "\n"))
		if (err != nil) != (wantErr != nil) || err == nil && got != want {
			t.Errorf("%q: %+v, %v; want %+v, %v", line, got, err, want, wantErr)
		}
	})
}
