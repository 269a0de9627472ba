package engine

// Reason is why there is no container, or why one has ended, in one word that programs
// may compare.
type Reason string

// The reasons.
const (
	ReasonEngineMissing       Reason = "engine-missing"       // there is no container engine on the machine
	ReasonEngineUnavailable   Reason = "engine-unavailable"   // the engine does not answer
	ReasonEngineDenied        Reason = "engine-denied"        // this user may not use the engine
	ReasonImageInvalid        Reason = "image-invalid"        // what names the image is not a reference
	ReasonImageNotFound       Reason = "image-not-found"      // there is no such image
	ReasonImageDenied         Reason = "image-denied"         // the registry does not give it to this machine
	ReasonRegistryUnavailable Reason = "registry-unavailable" // the registry does not answer
	ReasonDigestMismatch      Reason = "digest-mismatch"      // an image is not what its digest says
	ReasonRefused             Reason = "container-refused"    // the engine does not make or start such a container
	ReasonPortTaken           Reason = "port-taken"           // another program has the port
	ReasonRemoved             Reason = "container-removed"    // somebody has removed the container
	ReasonStoppedByHand       Reason = "stopped-by-hand"      // somebody had the engine end it
	ReasonOutOfMemory         Reason = "out-of-memory"        // it went over its limit
)
