package server

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
)

// A batch's log and those of its tasks are looked through together, each line by the log that
// it is in; who loses the right to read while it goes on is told no line more.
func TestSearchOfOneLog(t *testing.T) {
	dir, err := buildlog.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := dir.Create("hello-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := w.Beside("linux")
	if err != nil {
		t.Fatal(err)
	}
	out := task.Output(task.Begin("build", "make"))
	fmt.Fprint(out, "one\nneedle of a task\nneedle again\n")
	out.Close()
	digest, err := task.Finish("SUCCEEDED")
	if err != nil {
		t.Fatal(err)
	}
	w.Note("needle of the batch")
	w.NoteLog("", digest, "task linux: SUCCEEDED")
	whole, err := w.Finish("SUCCEEDED")
	if err != nil {
		t.Fatal(err)
	}

	s := &Server{logs: Logs{Dir: dir}, log: slog.New(slog.DiscardHandler)}
	s.about.HTTP = "https://git.example"
	grant := func(readers string) {
		t.Helper()
		c, err := access.Parse("server.yaml", []byte("users: {ada: {}, jun: {keys: ["+testKey+"]}}\n"+
			"groups: {administrators: [jun]}\nrepositories: {hello: {read: ["+readers+"]}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		s.access.Store(c)
	}
	grant("ada")
	of := show.FoundLine{Repository: "hello", Change: 7, Build: "sha256:" + whole, Newest: true}
	search := func(found func(show.FoundLine) bool) error {
		return s.searchLog(t.Context(), access.Identity{User: "ada"}, dir.Search("NEEDLE", 1<<20), of, found)
	}

	var lines []string
	if err := search(func(l show.FoundLine) bool {
		lines = append(lines, fmt.Sprintf("%s|%s|%d|%s|%s", l.Of(), l.Command, l.Line, l.Text, l.URL))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	page := "https://git.example/hello/changes/7?build="
	want := strings.Join([]string{
		"change 7 of hello||1|needle of the batch|" + page + whole[:12] + "&line=1#L1",
		"change 7 of hello, a task of its batch|make|2|needle of a task|" + page + digest[:12] + "&line=2#L2",
		"change 7 of hello, a task of its batch|make|3|needle again|" + page + digest[:12] + "&line=3#L3",
	}, "\n")
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	if err := search(func(show.FoundLine) bool { return false }); !errors.Is(err, errEnough) {
		t.Errorf("after enough: %v", err)
	}
	told := 0
	if err := search(func(show.FoundLine) bool { told++; grant("jun"); return true }); err != nil || told != 1 {
		t.Errorf("who may read no more is told %d lines, %v", told, err)
	}
}
