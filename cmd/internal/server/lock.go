package server

import (
	"errors"
	"fmt"
	"os"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Lock takes the data directory for this process alone, until the file is closed.
// Who holds it may sweep what an earlier process left behind.
func Lock(dir string) (*os.File, error) {
	f, err := repo.Lock(dir)
	var locked *repo.Locked
	if errors.As(err, &locked) {
		who := "in use by another headgate"
		if locked.Process != 0 {
			who += fmt.Sprintf(" (process %d)", locked.Process)
		}
		return nil, fmt.Errorf("%s is %s\nhint: stop it, or give another --data", dir, who)
	}
	return f, err
}
