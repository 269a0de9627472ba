package server

import (
	"context"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/event"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/schedule"
)

// TestScheduledBuildsAreTold: the end of a scheduled build is an event like that of any
// other, once, and says whom headgate.yaml has be told.
func TestScheduledBuildsAreTold(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	must(err)
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	must(err)
	defer store.Close()
	r, err := store.Create(t.Context(), "hello")
	must(err)
	file := repo.Blob([]byte("schedules:\n  - {name: soak, cron: '@yearly', notify: ops}\n"))
	must(r.Write(file))
	tree, err := r.TreeWith(repo.Zero, map[string]repo.Edit{"headgate.yaml": {Mode: filemode.Regular, Hash: file.Hash()}})
	must(err)
	main, err := r.WriteCommit(repo.NewCommit{Tree: tree, At: time.Now(), Message: "Soak"})
	must(err)
	must(r.Move(t.Context(), "refs/heads/main", repo.Zero, main))

	s := &Server{store: store, schedules: schedule.New(schedule.Config{
		Store:  store,
		Branch: func(string) string { return "main" },
		Build: func(_ context.Context, _ gate.Job, started func()) (gate.Result, error) {
			started()
			return gate.Result{Reason: "it leaks", LogDigest: "sha256:0"}, nil
		},
	})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.schedules.Run(ctx) }()
	defer func() {
		cancel()
		must(<-done)
	}()
	changed, stop := s.schedules.Watch("hello")
	defer stop()
	_, err = s.schedules.Start(t.Context(), "hello", "soak", "ada")
	must(err)
	for ended := false; !ended; {
		select {
		case <-changed:
		case <-time.After(5 * time.Minute):
			t.Fatal("it does not end")
		}
		st, err := s.schedules.Status("hello", "soak")
		must(err)
		ended = len(st.Builds) > 0 && st.Builds[0].State == schedule.Failed
	}

	read := s.eventReaders()[schedule.Refs]
	tip, err := r.Ref(schedule.Ref("soak"))
	must(err)
	all, err := read(t.Context(), r, schedule.Ref("soak"), repo.Zero, tip)
	must(err)
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	want := event.Event{
		ID:         tip.String(),
		Type:       event.BuildFinished,
		Kind:       access.BuildEvents,
		At:         all[0].At,
		Repository: "hello",
		Subject:    "hello/schedules/soak/1",
		Data: event.Data{
			Branch:   "main",
			Commit:   main.String(),
			Tree:     tree.String(),
			Schedule: "soak",
			Run:      1,
			Notify:   "ops",
			By:       "ada",
			Outcome:  "failure",
			Log:      "sha256:0",
			Reason:   "it leaks",
			URL:      "/hello/schedules/soak",
		},
	}
	if time.Since(want.At) > time.Hour || !reflect.DeepEqual(all[0], want) {
		t.Errorf("%+v", all[0])
	}
	if again, err := read(t.Context(), r, schedule.Ref("soak"), tip, tip); err != nil || len(again) != 0 {
		t.Errorf("told again: %+v, %v", again, err)
	}
}
