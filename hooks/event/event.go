package event

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// specVersion is the CDEvents release whose schemas the events satisfy.
const specVersion = "0.5.1"

// Type is the type of an event, with the version of its schema.
type Type string

// The types of CDEvents, and those of Headgate's own where CDEvents has none.
const (
	ChangeCreated     Type = "dev.cdevents.change.created.0.4.0"
	ChangeUpdated     Type = "dev.cdevents.change.updated.0.3.0"
	ChangeMerged      Type = "dev.cdevents.change.merged.0.3.0"
	ChangeAbandoned   Type = "dev.cdevents.change.abandoned.0.3.0"
	BuildFinished     Type = "dev.cdevents.build.finished.0.3.0"
	ArtifactPublished Type = "dev.cdevents.artifact.published.0.3.0"
	ServiceDeployed   Type = "dev.cdevents.service.deployed.0.3.0"
	ServiceUpgraded   Type = "dev.cdevents.service.upgraded.0.3.0"
	ServiceRolledBack Type = "dev.cdevents.service.rolledback.0.3.0"
	ServiceRemoved    Type = "dev.cdevents.service.removed.0.3.0"

	ChangeWaiting      Type = "dev.cdeventsx.headgate-change.waiting.0.1.0"
	ChangeRefused      Type = "dev.cdeventsx.headgate-change.refused.0.1.0"
	ReleaseCreated     Type = "dev.cdeventsx.headgate-release.created.0.1.0"
	ReleasePromoted    Type = "dev.cdeventsx.headgate-release.promoted.0.1.0"
	ReleaseRolledBack  Type = "dev.cdeventsx.headgate-release.rolledback.0.1.0"
	EnvironmentRemoved Type = "dev.cdeventsx.headgate-environment.removed.0.1.0"
	DeploymentStarted  Type = "dev.cdeventsx.headgate-deployment.started.0.1.0"
	DeploymentFailed   Type = "dev.cdeventsx.headgate-deployment.failed.0.1.0"
	DeploymentDrifted  Type = "dev.cdeventsx.headgate-deployment.drifted.0.1.0"
	EndpointTested     Type = "dev.cdeventsx.headgate-endpoint.tested.0.1.0"
)

// steps are the types in the order in which a change goes through them: commits
// know the time to the second only.
var steps = []Type{
	ChangeCreated, ChangeUpdated, ChangeWaiting, BuildFinished, ChangeRefused, ChangeAbandoned, ChangeMerged,
	ReleaseCreated, ArtifactPublished, ReleasePromoted, ReleaseRolledBack, EnvironmentRemoved, DeploymentStarted,
	ServiceDeployed, ServiceUpgraded, ServiceRolledBack, DeploymentDrifted, DeploymentFailed, ServiceRemoved,
}

func (t Type) step() int { return slices.Index(steps, t) }

// Event is one thing that happened.
type Event struct {
	ID         string // the same whenever it is read
	Type       Type
	Kind       access.EventKind // what endpoints choose by
	At         time.Time        // that it happened, UTC
	Repository string
	Subject    string // what it happened to: "hello/changes/7"
	Content    any    // of the subject, as its type's schema has it; nil: nothing
	Data       Data   // what CDEvents has no field for
}

// Data is what Headgate says beside what the schema of a type has room for.
type Data struct {
	Repository  string     `json:"repository,omitempty"`
	Branch      string     `json:"branch,omitempty"`
	Change      int        `json:"change,omitempty"`
	Revision    int        `json:"revision,omitempty"`
	Commit      string     `json:"commit,omitempty"`
	Tree        string     `json:"tree,omitempty"`
	Release     int        `json:"release,omitempty"`
	Environment string     `json:"environment,omitempty"`
	Schedule    string     `json:"schedule,omitempty"` // that a build was started by
	Run         int        `json:"run,omitempty"`      // its number, among those of the schedule
	Notify      string     `json:"notify,omitempty"`   // the user or group that headgate.yaml has be told
	By          string     `json:"by,omitempty"`       // the user it came from
	Outcome     string     `json:"outcome,omitempty"`  // of a build: success, failure
	Log         string     `json:"log,omitempty"`      // of that build
	Cause       string     `json:"cause,omitempty"`    // why a change was refused, for programs
	Reason      string     `json:"reason,omitempty"`   // the same in one line, for people
	Until       *time.Time `json:"until,omitempty"`
	Artifacts   []Artifact `json:"artifacts,omitempty"`
	Approvers   []string   `json:"approvers,omitempty"`
	URL         string     `json:"url,omitempty"` // of the page that shows it; its path, until it is written
}

// Artifact is a file of a release.
type Artifact struct {
	ID     string `json:"id"` // a package URL
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// reference is how CDEvents names something else.
type reference struct {
	ID     string `json:"id"`
	Source string `json:"source,omitempty"`
}

// Contents of subjects, as the schemas of CDEvents have them.
type (
	changeContent struct {
		Description string    `json:"description,omitempty"` // of change.created alone
		Repository  reference `json:"repository"`
	}
	serviceContent struct {
		Environment reference `json:"environment"`
		ArtifactID  string    `json:"artifactId,omitempty"`
	}
	publishedContent struct {
		User string `json:"user,omitempty"`
	}
)

// Service is the content of the service.* events: where it runs, and which
// release; none for service.removed.
func Service(environment, artifact string) any {
	return serviceContent{Environment: reference{ID: environment}, ArtifactID: artifact}
}

// PackageURL names a release of a repository as a purl, and one artifact of it
// when name is not empty.
func PackageURL(repository string, release int, name string) string {
	purl := "pkg:generic/" + url.PathEscape(repository) + "@" + strconv.Itoa(release)
	if name != "" {
		purl += "#" + url.PathEscape(name)
	}
	return purl
}

// document is the JSON of an event.
type document struct {
	Context struct {
		SpecVersion string `json:"specversion"`
		ID          string `json:"id"`
		Source      string `json:"source"`
		Type        Type   `json:"type"`
		Timestamp   string `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"`
		Source  string `json:"source"`
		Content any    `json:"content"`
	} `json:"subject"`
	Data        Data   `json:"customData"`
	ContentType string `json:"customDataContentType"`
}

// encode writes an event of the server whose console is at source.
func (e Event) encode(source string) ([]byte, error) {
	var d document
	d.Context.SpecVersion, d.Context.ID, d.Context.Source = specVersion, e.ID, source
	d.Context.Type, d.Context.Timestamp = e.Type, e.At.UTC().Format(time.RFC3339Nano)
	d.Subject.ID, d.Subject.Source, d.Subject.Content = e.Subject, source, e.Content
	if d.Subject.Content == nil {
		d.Subject.Content = struct{}{}
	}
	d.Data, d.ContentType = e.Data, "application/json"
	d.Data.Repository = e.Repository
	if d.Data.URL != "" {
		d.Data.URL = source + d.Data.URL
	}

	body, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write event %s: %w", e.ID, err)
	}
	return body, nil
}
