package services

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestManyServices: a file may declare as many services as the bound says, each of which
// waits for the one before; one of a hundred is refused by its line, once.
func TestManyServices(t *testing.T) {
	t.Parallel()
	declared := func(count int) target.Files {
		var file strings.Builder
		file.WriteString("x-all: &all {command: ./web, restart: always}\nservices:\n")
		for n := range count {
			fmt.Fprintf(&file, "  web-%d:\n    <<: *all\n    ports: ['%d:80']\n", n, 20000+n)
			if n > 0 {
				fmt.Fprintf(&file, "    depends_on: [web-%d]\n", n-1)
			}
		}
		return target.Files{composeFile: []byte(file.String())}
	}
	most := declared(maxServices)
	c, warnings, err := Read("deploy", most)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if len(c.Services) != maxServices || len(Addresses(most)) != maxServices {
		t.Errorf("%d services at %d addresses", len(c.Services), len(Addresses(most)))
	}

	problems, _ := Check("deploy", declared(100))
	want := "deploy/compose.yaml:202: declares more than 50 services; split the application"
	if len(problems) != 1 || strings.TrimSpace(problems[0].Error()) != want {
		t.Errorf("a hundred services: %v", problems)
	}
}
