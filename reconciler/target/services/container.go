package services

import (
	"bytes"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// Container is what a service with an image says of the container of an instance.
// What an instance of either kind has is said by Service: Command replaces the
// image's own (nil: the image's), WorkingDir is a path in the container ("" is the
// image's), Environment has what env_file gave merged into it, and Health, StopSignal
// and StopGrace count as they do for processes.
type Container struct {
	// Image is a reference, such as "ghcr.io/acme/web:4" or "postgres@sha256:…";
	// variables not yet replaced. A name alone, of an image that the release has
	// (target.Release.Images), is that image; with OwnImage it is that one and no other.
	Image    string
	OwnImage bool
	imageAt  place // of one that is OwnImage

	Pull PullPolicy

	// Login is the secret by which the image's registry is entered: "user:password", or a
	// JSON object with username and password, as in ECS. "" is nobody. Instances are not
	// made of it: another value replaces none.
	Login   string `json:",omitempty"`
	loginAt place

	Entrypoint []string // replaces the image's own, nil keeps that; variables not yet replaced
	User       string   // name or number, with ":group"; "" is the image's
	Groups     []string // further ones, by name or number
	Hostname   string   // "" is the instance's name
	Aliases    []string // names besides the service's by which others of the application find it
	Init       bool     // a first process that reaps what is left behind

	// Port is where the container listens, 0 for one that does not, or on a port that
	// nobody is to reach. $PORT says the same to the container.
	Port int

	Limits     Limits
	Ulimits    map[string]Ulimit // by name, such as "nofile"
	ReadOnly   bool              // the root file system
	Tmpfs      []Tmpfs
	SharedMem  int64             // bytes of /dev/shm; 0 is the engine's default
	CapAdd     []string          // names without CAP_, or ALL
	CapDrop    []string          // the same
	NoNewPrivs bool              // programs get no privileges by set-user-ID bits and the like
	Sysctls    map[string]string // of the container's own network
	Labels     map[string]string // of the container; variables not yet replaced
	ExtraHosts []ExtraHost
	DNS        []string // addresses of name servers; nil is the engine's default

	Mounts []Mount

	// ImageHealth says that the file declares no check, so that the image's own
	// HEALTHCHECK counts where it has one. It is false when the check was disabled, and
	// in a task definition, which ignores the image's own.
	ImageHealth bool

	// StartInterval is the time between two checks before the first success; 0 is as
	// short as the target likes.
	StartInterval time.Duration
}

// PullPolicy says when an image is fetched. An image that is named by its digest, as
// a release's own is, is fetched where it is not there yet, whatever this says.
type PullPolicy string

// The policies. The zero value resolves a tag once for every deployment.
const (
	PullOnce    PullPolicy = ""
	PullAlways  PullPolicy = "always"  // the same, and what is there already is no stopgap while its registry does not answer
	PullMissing PullPolicy = "missing" // what is there under that name will do
	PullNever   PullPolicy = "never"
)

// Limits are what an instance may use; 0 is no limit.
type Limits struct {
	Memory            int64   // bytes
	MemoryReservation int64   // bytes that it has for certain when memory is short
	CPUs              float64 // how many, in parts down to 0.01
	CPUShares         int64   // weight against others when processors are short; 1024 is usual
	PIDs              int64   // processes and threads
}

// Ulimit is a bound of getrlimit(2), in its own unit; -1 is none.
type Ulimit struct{ Soft, Hard int64 }

// Tmpfs is a file system in memory.
type Tmpfs struct {
	Target string // absolute path in the container
	Size   int64  // bytes; 0 is no bound of its own
	Mode   uint32 // permissions; 0 is 01777
}

// ExtraHost is a line of /etc/hosts. Address is an IP address, or "host-gateway" for
// the machine itself.
type ExtraHost struct{ Name, Address string }

// Mount puts something at a path of the container: a volume, or files of the
// environment's directory, which are read-only.
type Mount struct {
	Target   string // absolute path in the container
	ReadOnly bool

	// Volume is a named one of the application in the environment, which survives every
	// deployment; "" for files.
	Volume string
	NoCopy bool   // a new volume does not begin with what the image has at Target
	Within string // directory of the volume that is mounted; "" is its top

	File      []byte            // content, when Target is a file
	Directory map[string][]byte // by slash-separated path, when Target is a directory
	Mode      uint32            // permissions of files; 0 is 0444
	UID, GID  int               // owner of files
}

// Secret is one that was set with `secret set`, given to instances. Its value is in no
// file of Git, no argument and no log.
type Secret struct {
	Name string // in the store of the repository
	JSON string // member of the object that the value is, in JSON; "" is all of it

	Variable string // environment variable that gets it; "" for a file
	File     string // absolute path of the file that gets it; "" for a variable
	Mode     uint32 // permissions of the file; 0 is 0444
	UID, GID int    // owner of the file

	at place
}

// exclusive reports whether instances of two versions of a service must not run at a
// time: two databases that write to one volume destroy it.
func (s Service) exclusive() bool {
	return s.Container != nil && !s.overlaps && slices.ContainsFunc(s.Container.Mounts, func(m Mount) bool {
		return m.Volume != "" && !m.ReadOnly
	})
}

// lasting reports whether a service is the same in every release: it is of an image
// from elsewhere, and nothing that it says of itself names the release. As with
// Compose, it runs on until something of it changes.
func (s Service) lasting(said []byte, r target.Release) bool {
	if s.Container == nil || s.Container.OwnImage {
		return false
	}
	_, own := r.Images[s.Container.Image]
	return !own && !bytes.Contains(said, []byte("HEADGATE_RELEASE")) && !bytes.Contains(said, []byte("HEADGATE_COMMIT"))
}
