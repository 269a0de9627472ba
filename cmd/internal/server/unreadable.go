package server

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/enrolment"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/token"
)

// unreadable is why a start could not read what the data directory holds. There may be
// more of it than what the start met first.
func unreadable(data string, err error) error {
	return fmt.Errorf("%w\nhint: all that cannot be read is named by: headgate doctor --data %s", err, data)
}

// Unreadable says what a start would not be able to read of a data directory, besides
// objects and refs of repositories. It changes nothing, and a server may run.
func Unreadable(data string) (found []error) {
	note := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // what may be missing is told by CheckHistory
			found = append(found, err)
		}
	}
	path := func(parts ...string) string { return filepath.Join(append([]string{data}, parts...)...) }
	note(repo.CheckKey(path("keys", "host")))
	note(repo.CheckSigner(path("keys", "server")))
	_, err := readSecret(path("keys", "console"))
	note(err)
	note(secret.CheckKey(path("keys", "secrets")))
	found = append(found, token.Damaged(path("tokens"))...)
	found = append(found, enrolment.Damaged(path("enrolments"))...)

	own, err := repo.OpenClone(path("repositories", access.Own+".git"))
	if err != nil {
		return found // it is named as a repository
	}
	if tip, err := own.Ref("refs/heads/" + configBranch); err == nil && tip != repo.Zero {
		_, _, err := configurationAt(own, tip)
		note(err)
	}
	return found
}
