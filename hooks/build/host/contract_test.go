package host_test

import (
	"os"
	"testing"

	"github.com/headgate-cd/headgate/hooks/build/executortest"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

func TestContract(t *testing.T) {
	root := os.Geteuid() == 0
	executortest.Suite{Executor: &host.Host{}, Limits: root, Users: root, Writable: root}.Test(t)
}
