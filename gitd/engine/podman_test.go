package engine

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// What Podman does not take as Docker does it is given as its command line has it, or refused.
func TestWhatPodmanIsGiven(t *testing.T) {
	s := Spec{
		Volumes: []Volume{
			{Name: "data", Target: "/data"},
			{Target: "/cache", Overlay: Overlay{Lower: "/l", Upper: "/u", Work: "/w"}},
		},
		Binds: []Bind{
			{Source: "/a,b", Target: "/one"},
			{Source: "/c,d", Target: "/two", Writable: true},
			{Source: "/e:f", Target: "/three"},
		},
	}
	host := &container.HostConfig{}
	host.Mounts = s.mounts()
	if err := s.podman(host); err != nil {
		t.Fatal(err)
	}
	want := []string{"/l:/cache:O,upperdir=/u,workdir=/w", "/a,b:/one:ro", "/c,d:/two"}
	if !slices.Equal(host.Binds, want) {
		t.Errorf("binds %q", host.Binds)
	}
	var mounts []string
	for _, m := range host.Mounts {
		mounts = append(mounts, m.Source+">"+m.Target)
	}
	if got := strings.Join(mounts, " "); got != "data>/data /e:f>/three" {
		t.Errorf("mounts %s", got)
	}

	s.Binds = append(s.Binds, Bind{Source: "/g,h:i", Target: "/four"})
	if err := s.podman(&container.HostConfig{}); ReasonOf(err) != ReasonRefused || !strings.Contains(err.Error(), `"/g,h:i"`) {
		t.Errorf("a path with both: %v", err)
	}
}
