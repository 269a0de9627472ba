package repo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// power is an ext4 on a loop device, whose power can be cut: what was not synced by
// then is not there afterwards.
type power struct {
	t      *testing.T
	device *os.File
	dir    string // where it is mounted
}

// shutdown is EXT4_IOC_SHUTDOWN, and what it is told: lose what the journal has not
// written.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// newPower makes a file system. The error says why the machine does not let the test.
func newPower(t *testing.T) (*power, error) {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, 96<<20); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for range 20 { // somebody else may take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := "/dev/loop" + strconv.Itoa(n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			_ = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))) // opening it says why not
			device, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			return nil, err
		}
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
		if errors.Is(err, unix.EBUSY) {
			device.Close()
			continue
		}
		if err != nil {
			device.Close()
			return nil, fmt.Errorf("set up %s: %w", path, err)
		}
		t.Cleanup(func() {
			_ = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0) // it is let go when it is closed, else
			device.Close()
		})
		p := &power{t: t, device: device, dir: filepath.Join(dir, "mounted")}
		if err := os.Mkdir(p.dir, 0o755); err != nil {
			return nil, err
		}
		return p, p.on()
	}
	return nil, errors.New("every free loop device is taken by somebody else")
}

// on mounts it: the journal is replayed.
func (p *power) on() error {
	// With as few promises as it can make: nothing is written because something else is.
	//
	// The kernel forgets what it has in memory of the device: blocks that never got there.
	if err := unix.IoctlSetInt(int(p.device.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("empty the cache of %s: %w", p.device.Name(), err)
	}
	if err := unix.Mount(p.device.Name(), p.dir, "ext4", 0, "commit=300,noauto_da_alloc,data=writeback"); err != nil {
		return fmt.Errorf("mount %s: %w", p.device.Name(), err)
	}
	return nil
}

// cut loses what is not synced. Whoever uses the file system meets errors.
func (p *power) cut() {
	d, err := os.Open(p.dir)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer d.Close()
	if err := unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush); err != nil {
		p.t.Errorf("cut the power: %v", err)
	}
}

// off unmounts it, once nobody uses it any more.
func (p *power) off() {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(p.dir, 0)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("unmount: %v", err)
		}
	}
}

// TestPowerCut cuts the power of a real file system at many moments while repositories
// are made, objects written, refs moved, and all is packed. The start that follows
// finishes or removes what was half made, and what was acknowledged is there.
//
// It runs in a mount namespace of its own: a sandbox that somebody starts meanwhile
// has a copy of all mounts for a moment, and keeps a file system alive by it.
func TestPowerCut(t *testing.T) {
	const inside = "HEADGATE_POWER_CUT"
	if os.Getenv(inside) == "" {
		again := exec.Command("/proc/self/exe", "-test.run=^TestPowerCut$", "-test.v")
		again.Env = append(os.Environ(), inside+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		out, err := again.CombinedOutput()
		t.Logf("%s", out)
		switch {
		case err != nil && len(out) == 0 && os.Getenv("CI") == "":
			t.Skipf("NO POWER WAS CUT: %v", err)
		case err != nil:
			t.Fatal(err)
		case strings.Contains(string(out), "NO POWER WAS CUT"):
			t.Skip("NO POWER WAS CUT: see above")
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	p, err := newPower(t)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("this machine does not let the power of a file system be cut: %v", err)
		}
		t.Skipf("NO POWER WAS CUT: this machine does not let the test (root, loop devices, mkfs.ext4): %v", err)
	}
	mounted := true
	defer func() {
		if mounted {
			p.off()
		}
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	signer, err := OpenSigner(filepath.Join(t.TempDir(), "key"), Person{"Headgate", "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}

	acknowledged := map[string]map[string]Hash{} // refs by repository
	for round := range 16 {
		store, _, err := OpenStore(filepath.Join(p.dir, "repositories"), "/hooks", signer)
		if err != nil {
			t.Fatalf("round %d: the start after a power cut: %v", round, err)
		}
		names, err := store.Names()
		if err != nil {
			t.Fatal(err)
		}
		for name, refs := range acknowledged {
			r, err := store.Repository(name)
			if err != nil {
				t.Fatalf("round %d: %s was made, and there are %q: %v", round, name, names, err)
			}
			for ref, want := range refs {
				got, err := r.Ref(ref)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				// It may have moved on: the cut came before the acknowledgement.
				if held, err := r.Contains(t.Context(), got, want); !held || err != nil {
					t.Fatalf("round %d: %s of %s is at %s, and %s was acknowledged: %v", round, ref, name, got, want, err)
				}
				refs[ref] = got
			}
		}
		for _, name := range names {
			r, err := store.Repository(name)
			if err != nil || r.Damage() != nil {
				t.Fatalf("round %d: %s is damaged: %v, %v", round, name, err, r.Damage())
			}
			fsck(t, r)
		}

		// Half of the cuts fall into the making of the repository, the others behind so
		// many moves of refs.
		after := 0
		if round%2 == 1 {
			after = 1 + random.IntN(60)
		}
		var work sync.WaitGroup
		stopped, reached := make(chan struct{}), make(chan struct{})
		name := fmt.Sprintf("made-%d", round)
		var mu sync.Mutex
		note := func(name, ref string, at Hash) {
			mu.Lock()
			defer mu.Unlock()
			if acknowledged[name] == nil {
				acknowledged[name] = map[string]Hash{}
			}
			if ref != "" {
				acknowledged[name][ref] = at
			}
		}
		work.Go(func() {
			if after == 0 {
				close(reached)
			}
			r, err := store.Create(t.Context(), name)
			if err != nil {
				t.Logf("round %d: %v", round, err) // the power is cut
				return
			}
			note(name, "", Zero)
			var tip Hash
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				blob := Blob(fmt.Append(nil, "content ", round, n))
				if r.Write(blob) != nil {
					return
				}
				tree, err := r.TreeWith(Zero, map[string]Edit{"f": {Mode: 0o100644, Hash: blob.Hash()}})
				if err != nil {
					return
				}
				next, err := r.WriteCommit(NewCommit{Tree: tree, Parents: parents(tip), At: noon, Message: fmt.Sprint("commit ", n)})
				if err != nil || r.Move(t.Context(), "refs/heads/main", tip, next) != nil {
					return
				}
				note(name, "refs/heads/main", next)
				tip = next
				ref := fmt.Sprintf("refs/changes/%d/log", n)
				if r.Move(t.Context(), ref, Zero, next) != nil {
					return
				}
				note(name, ref, next)
				if n+1 == after {
					close(reached)
				}
				if n%20 == 19 {
					if _, err := r.Pack(t.Context(), time.Now()); err != nil {
						return
					}
				}
			}
		})
		<-reached
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // anywhere in what follows
		p.cut()
		close(stopped)
		work.Wait()
		store.Close()
		mounted = false
		p.off()
		if err := p.on(); err != nil {
			t.Fatal(err)
		}
		mounted = true
	}
	made, refs := 0, 0
	for _, r := range acknowledged {
		made++
		refs += len(r)
	}
	if made == 0 || refs == 0 {
		t.Errorf("%d repositories and %d refs were acknowledged: too few to say anything", made, refs)
	}
	t.Logf("%d repositories and %d refs were acknowledged", made, refs)
}
