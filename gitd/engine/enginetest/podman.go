package enginetest

import (
	"os"
	"os/exec"
	"path/filepath"
)

// podmanConfig is for machines without systemd whose hard limits cannot be raised. The
// networks of a test are its own.
const podmanConfig = `[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
init_path = "/usr/bin/catatonit"
[network]
network_config_dir = "/run/podman-networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
init_path = "/usr/bin/catatonit"
`

// podmanRegistries has Podman trust a registry of this machine, as Docker does.
const podmanRegistries = `[[registry]]
location = "127.0.0.1"
insecure = true
[[registry]]
location = "127.0.0.1:5000"
insecure = true
`

// podman is the command of Podman that answers as Docker's engine does.
func (d *Daemon) podman() *exec.Cmd {
	d.t.Helper()
	config, registries := filepath.Join(d.dir, "containers.conf"), filepath.Join(d.dir, "registries.conf")
	for file, text := range map[string]string{config: podmanConfig, registries: podmanRegistries} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	_ = os.Remove(filepath.Join(d.dir, "engine.sock")) // of one that was killed
	cmd := exec.Command("podman", "--root", filepath.Join(d.dir, "root"), "--runroot", "/run/podman",
		"--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "runc",
		"system", "service", "--time", "0", d.Host)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"CONTAINERS_CONF="+config, "CONTAINERS_REGISTRIES_CONF="+registries)
	return cmd
}
