package function

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/function/rollout"
	"github.com/headgate-cd/headgate/reconciler/target/unpacked"
)

// engineAWS is the engine of functions that are at AWS Lambda.
const engineAWS = "aws"

// remote is AWS Lambda, where a function and its alias are.
type remote struct {
	client *lambda.Client
	region string
}

// newRemote makes a client by the SDK's own chain: variables, ~/.aws, the role of the machine.
func (t *Target) newRemote(ctx context.Context, region string) (*remote, error) {
	options := slices.Clone(t.awsOptions)
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("AWS: %w", err)
	}
	if c.Region == "" {
		return nil, &refused{why: "AWS: there is no region; write region: eu-central-1 in " + settingsFile}
	}
	return &remote{lambda.NewFromConfig(c), c.Region}, nil
}

// Bounds of what is sent to AWS.
const (
	maxZip       = 50 << 20 // of a function's code, by Lambda's rule
	readyPause   = 200 * time.Millisecond
	readyTimeout = 5 * time.Minute // for Lambda to take over what was sent
)

// explain makes an error of AWS one for people.
func (r *remote) explain(function string, err error) error {
	var missing *types.ResourceNotFoundException
	if errors.As(err, &missing) {
		return &refused{why: fmt.Sprintf(
			"AWS has no function %s in %s; create it there, with its role, and promote again", function, r.region), back: true}
	}
	return fmt.Errorf("AWS: %w", err)
}

// publish sends a function's code, and makes a version of it. The same code again is the same
// version, by Lambda's own rule, so that a kill in between makes none twice.
func (r *remote) publish(ctx context.Context, function string, code []byte, release int) (number int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("%s was not ready within %s", function, readyTimeout))
	defer cancel()
	if err := r.ready(ctx, function, ""); err != nil { // of somebody else's update
		return 0, err
	}
	sent, err := r.client.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: &function, ZipFile: code})
	if err != nil {
		return 0, r.explain(function, err)
	}
	if err := r.ready(ctx, function, ""); err != nil {
		return 0, err
	}
	made, err := r.client.PublishVersion(ctx, &lambda.PublishVersionInput{
		FunctionName: &function,
		CodeSha256:   sent.CodeSha256, // that nobody has sent another one meanwhile
		Description:  aws.String(fmt.Sprintf("release %d", release)),
	})
	if err != nil {
		return 0, r.explain(function, err)
	}
	if number, err = strconv.Atoi(aws.ToString(made.Version)); err != nil {
		return 0, fmt.Errorf("AWS: %s has the version %q, which is not a number", function, aws.ToString(made.Version))
	}
	return number, r.ready(ctx, function, strconv.Itoa(number))
}

// ready waits until Lambda has taken over what was sent.
func (r *remote) ready(ctx context.Context, function, version string) error {
	in := &lambda.GetFunctionConfigurationInput{FunctionName: &function}
	if version != "" {
		in.Qualifier = &version
	}
	for {
		c, err := r.client.GetFunctionConfiguration(ctx, in)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return r.explain(function, err)
		}
		switch {
		case c.LastUpdateStatus == types.LastUpdateStatusFailed, c.State == types.StateFailed:
			why := terminal.Plain(strings.TrimSpace(aws.ToString(c.StateReason) + " " + aws.ToString(c.LastUpdateStatusReason)))
			return &refused{why: fmt.Sprintf("AWS does not run %s: %s", function, why), back: true}
		case c.LastUpdateStatus != types.LastUpdateStatusInProgress && c.State != types.StatePending:
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(readyPause):
		}
	}
}

// alias is where an alias is; the zero value when there is none.
func (r *remote) alias(ctx context.Context, function, name string) (at rollout.Alias, err error) {
	got, err := r.client.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: &function, Name: &name})
	var missing *types.ResourceNotFoundException
	if errors.As(err, &missing) {
		return rollout.Alias{}, nil
	}
	if err != nil {
		return at, r.explain(function, err)
	}
	number := func(text string) int {
		n, e := strconv.Atoi(text)
		if e != nil {
			err = fmt.Errorf("AWS: the alias %s of %s points to %q, which is not a version that was published", name, function, text)
		}
		return n
	}
	at.Version = number(aws.ToString(got.FunctionVersion))
	if got.RoutingConfig != nil {
		for version, weight := range got.RoutingConfig.AdditionalVersionWeights {
			at.Canary, at.Weight = number(version), int(weight*100+0.5)
		}
	}
	return at, err
}

// move has an alias point somewhere, or be gone.
func (r *remote) move(ctx context.Context, function, name string, from, to rollout.Alias) error {
	version := aws.String(strconv.Itoa(to.Version))
	routing := &types.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{}}
	if to.Canary > 0 {
		routing.AdditionalVersionWeights[strconv.Itoa(to.Canary)] = float64(to.Weight) / 100
	}
	var err error
	switch {
	case to == rollout.Alias{}:
		_, err = r.client.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: &function, Name: &name})
	case from == rollout.Alias{}:
		_, err = r.client.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: &function, Name: &name,
			FunctionVersion: version, RoutingConfig: routing})
	default:
		_, err = r.client.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: &function, Name: &name,
			FunctionVersion: version, RoutingConfig: routing})
	}
	if err != nil {
		return r.explain(function, err)
	}
	return nil
}

// call invokes a hook. It has succeeded when it returns without an error: the CodeDeploy of
// AWS, to which it could report, does not know the deployment.
func (r *remote) call(ctx context.Context, function string, payload []byte) error {
	got, err := r.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &function, Payload: payload})
	if err != nil {
		return r.explain(function, err)
	}
	if why := aws.ToString(got.FunctionError); why != "" {
		text := string(got.Payload[:min(len(got.Payload), 300)])
		return fmt.Errorf("%s: %s", why, terminal.Plain(text))
	}
	return nil
}

// cloud is AWS in a region.
func (a *app) cloud(ctx context.Context, region string) (*remote, error) {
	if a.remote == nil || a.remote.region != region && region != "" {
		r, err := a.t.newRemote(ctx, region)
		if err != nil {
			return nil, err
		}
		a.remote = r
	}
	return a.remote, nil
}

// prepareRemote is prepare for functions that are at AWS. Versions there have AWS's numbers.
func (a *app) prepareRemote(ctx context.Context, d *target.Declared, settings *Settings) error {
	r, err := a.cloud(ctx, settings.Region)
	if err != nil {
		return err
	}
	spec, key := settings.Spec, settings.aliasKey()
	switch was := a.state.Remote; {
	case was == nil && len(a.state.Functions) > 0:
		return &refused{why: "what is deployed runs on this machine; declare functions of AWS in another environment"}
	case was == nil:
		a.state.Remote = &remoteAlias{Alias: key, Region: r.region}
	case was.Alias != key || was.Region != r.region:
		return &refused{why: fmt.Sprintf("what is deployed is %s in %s; declare another function, alias or region in another environment",
			was.Alias, was.Region)}
	}
	if a.state.Remote.Pending { // of a deployment that was superseded
		if err := a.follow(ctx); err != nil {
			return err
		}
	}
	at, err := r.alias(ctx, spec.Name, spec.Alias)
	if err != nil {
		return err
	}
	if a.state.Deployment == nil { // else it is in between, and where it is to be is on record
		if a.state.Aliases[key] = at; at.Version == 0 {
			delete(a.state.Aliases, key)
		}
	}
	var goal int
	for _, name := range []string{spec.Before, spec.After, spec.Name} {
		if name == "" {
			continue
		}
		number, err := a.publishRemote(ctx, r, d, settings.Functions[name])
		if err != nil {
			return err
		}
		if name == spec.Name {
			goal = number
		}
	}
	if err := a.save(); err != nil {
		return err
	}
	a.show()
	return a.begin(ctx, d, goal)
}

// publishRemote makes the version of a function of the release at AWS, unless it is known.
func (a *app) publishRemote(ctx context.Context, r *remote, d *target.Declared, f *Function) (int, error) {
	digest, err := artifactOf(d, f)
	if err != nil {
		return 0, &refused{why: err.Error()}
	}
	config := Config{Code: f.Config.Code, Runtime: engineAWS + " " + r.region}
	all := a.state.Functions[f.Name]
	for i := range all {
		if all[i].Digest == digest && all[i].Config.Code == config.Code && all[i].Config.Runtime == config.Runtime {
			all[i].Release = d.Release.Number
			return all[i].Number, nil
		}
	}
	v := version{Digest: digest, Config: config, Release: d.Release.Number, Made: time.Now()}
	code, err := a.t.zipped(ctx, v)
	var missing *missingCode
	switch {
	case errors.As(err, &missing):
		return 0, &refused{why: f.Name + ": " + missing.why, back: true}
	case err != nil:
		return 0, err
	}
	if v.Number, err = r.publish(ctx, f.Name, code, d.Release.Number); err != nil {
		return 0, err
	}
	if a.state.Functions == nil {
		a.state.Functions = map[string][]version{}
	}
	a.state.Functions[f.Name] = append(slices.DeleteFunc(all, func(old version) bool {
		return old.Number == v.Number // Lambda has found the same code under it
	}), v)
	a.state.forget(f.Name)
	a.t.Log.Info("published at AWS", "app", a.name(), "function", f.Name, "version", v.Number, "release", v.Release)
	return v.Number, nil
}

// follow has the alias at AWS be where the state says, which was written down before.
func (a *app) follow(ctx context.Context) error {
	where := a.state.Remote
	if where == nil {
		return nil
	}
	r, err := a.cloud(ctx, where.Region)
	if err != nil {
		return err
	}
	function, name, _ := strings.Cut(where.Alias, ":")
	at, err := r.alias(ctx, function, name)
	if err != nil {
		return err
	}
	if to := a.state.Aliases[where.Alias]; at != to {
		if err := r.move(ctx, function, name, at, to); err != nil {
			return err
		}
	}
	if !where.Pending {
		return nil
	}
	a.state.Remote = &remoteAlias{Alias: where.Alias, Region: where.Region}
	return a.save()
}

// pending notes, before the state is saved, that AWS is to follow it.
func (a *app) pending() {
	if was := a.state.Remote; was != nil {
		a.state.Remote = &remoteAlias{Alias: was.Alias, Region: was.Region, Pending: true}
	}
}

// lookRemote is look for an alias at AWS.
func (a *app) lookRemote(ctx context.Context, d *target.Declared, r *remote, declared rollout.Alias, report bool) error {
	spec := a.settings.Spec
	at, err := r.alias(ctx, spec.Name, spec.Alias)
	if err != nil {
		return err
	}
	a.alias.set(at)
	if at != declared {
		message := fmt.Sprintf("drift: the alias %s of %s points to %s, not to %s", spec.Alias, spec.Name, at, declared)
		a.report(d, func(o *target.Observed) {
			o.State, o.Message, o.Unhealed = target.Degraded, message, report
		})
		if report {
			return nil
		}
		a.t.Log.Warn("healed drift", "app", a.name(), "what", message)
		if err := r.move(ctx, spec.Name, spec.Alias, at, declared); err != nil {
			return err
		}
		a.alias.set(declared)
	}
	a.report(d, func(o *target.Observed) {
		o.State, o.Message, o.Unhealed, o.RollBack = target.Healthy, "", false, false
	})
	return nil
}

// zipped is the code of a version as Lambda takes it: a zip file of the artifact as it is, or
// one that is made of a directory, the same for the same.
func (t *Target) zipped(ctx context.Context, v version) ([]byte, error) {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(t.Dir, "zip-")
	if err != nil {
		return nil, err
	}
	defer unpacked.RemoveTree(dir)
	code := filepath.Join(dir, "code")
	if err := os.Mkdir(code, 0o755); err != nil {
		return nil, err
	}
	if err := t.lay(ctx, v, code); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	err = filepath.WalkDir(code, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if out.Len() > maxZip {
			return &missingCode{fmt.Sprintf("its code takes more than %d MB, which Lambda does not take", maxZip>>20)}
		}
		return zipFile(w, code, name, e)
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil && out.Len() > maxZip {
		err = &missingCode{fmt.Sprintf("its code takes %d MB, of %d at most", out.Len()>>20, maxZip>>20)}
	}
	return out.Bytes(), err
}

// zipFile adds a file, or a link, without its time.
func zipFile(w *zip.Writer, root, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	at, err := filepath.Rel(root, name)
	if err != nil {
		return err
	}
	header := &zip.FileHeader{Name: filepath.ToSlash(at), Method: zip.Deflate}
	header.SetMode(info.Mode().Type() | 0o644 | info.Mode().Perm()&0o111)
	to, err := w.CreateHeader(header)
	if err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		link, err := os.Readlink(name)
		if err == nil {
			_, err = io.WriteString(to, link)
		}
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// removeRemote takes the alias away that was declared. Versions stay, as code that somebody may
// still want, and so does the function, which was there before.
func (a *app) removeRemote(ctx context.Context) error {
	where := a.state.Remote
	if where == nil {
		return nil
	}
	r, err := a.cloud(ctx, where.Region)
	if err != nil {
		return err
	}
	function, alias, _ := strings.Cut(where.Alias, ":")
	at, err := r.alias(ctx, function, alias)
	if err != nil || at == (rollout.Alias{}) {
		return err
	}
	return r.move(ctx, function, alias, at, rollout.Alias{})
}

// remoteAlias is an alias at AWS.
type remoteAlias struct {
	Alias  string `json:"alias"` // "function:alias"
	Region string `json:"region"`
	// Pending is that the alias there may not be where the state says.
	Pending bool `json:"pending,omitempty"`
}
