package kubernetes

import "slices"

const extensions = "apiextensions.k8s.io"

// clusterScoped are the kinds of Kubernetes itself whose objects are in no namespace, by group. What others add is known
// to the cluster alone, and judged there.
var clusterScoped = map[string][]string{
	"": {"ComponentStatus", "Namespace", "Node", "PersistentVolume"},
	"admissionregistration.k8s.io": {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
		"MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		"ValidatingWebhookConfiguration"},
	extensions:                     {"CustomResourceDefinition"},
	"apiregistration.k8s.io":       {"APIService"},
	"authentication.k8s.io":        {"SelfSubjectReview", "TokenReview"},
	"authorization.k8s.io":         {"SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"flowcontrol.apiserver.k8s.io": {"FlowSchema", "PriorityLevelConfiguration"},
	"internal.apiserver.k8s.io":    {"StorageVersion"},
	"networking.k8s.io":            {"IngressClass", "IPAddress", "ServiceCIDR"},
	"node.k8s.io":                  {"RuntimeClass"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"resource.k8s.io":              {"DeviceClass", "DeviceTaintRule", "ResourceSlice"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"storage.k8s.io":               {"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"},
	"storagemigration.k8s.io":      {"StorageVersionMigration"},
}

// IsClusterScoped reports whether objects of a kind of Kubernetes itself are in no namespace.
func IsClusterScoped(group, kind string) bool { return slices.Contains(clusterScoped[group], kind) }

// MayDeclare reports whether an application may declare objects of a kind that is in no namespace.
func MayDeclare(group, kind string) bool {
	return group == "" && kind == "Namespace" || group == extensions && kind == "CustomResourceDefinition"
}

// Stage is when an object is applied: what others need comes first, and all of a stage before the next.
type Stage int

// The stages.
const (
	Namespaces Stage = iota
	Definitions
	Needed // what workloads use as soon as they start
	Before // hooks
	Rest
	After // hooks
)

var needed = map[string][]string{
	"": {"ConfigMap", "LimitRange", "PersistentVolumeClaim", "ResourceQuota", "Secret", "Service",
		"ServiceAccount"},
	"networking.k8s.io":         {"NetworkPolicy"},
	"rbac.authorization.k8s.io": {"Role", "RoleBinding"},
}

// StageOf is when an object of a kind is applied.
func StageOf(group, kind string) Stage {
	switch {
	case group == "" && kind == "Namespace":
		return Namespaces
	case group == extensions && kind == "CustomResourceDefinition":
		return Definitions
	case slices.Contains(needed[group], kind):
		return Needed
	}
	return Rest
}

// Stage is when an object is applied.
func (o Object) Stage() Stage {
	annotations := mapAt(o.Content, "metadata", "annotations")
	switch annotations[HookAnnotation] {
	case string(HookBefore):
		return Before
	case string(HookAfter):
		return After
	}
	id := o.ID()
	return StageOf(id.Group, id.Kind)
}

// Order sorts objects by when they are applied. They are deleted the other way round.
func Order(objects []Object) {
	slices.SortStableFunc(objects, func(a, b Object) int { return int(a.Stage() - b.Stage()) })
}
