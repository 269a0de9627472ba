# May this release be given to this environment?
package headgate.promote

env := input.environment

# ── provenance ──
deny contains {
	"rule": "provenance", "title": "Provenance verifies",
	"msg": sprintf("release %d does not verify: %s", [input.release.number, input.verify_error]),
} if {
	not input.provenance_verifies
}

met contains {"rule": "provenance", "title": "Provenance verifies"} if input.provenance_verifies

# ── order: healthy in the environment before ──
need contains {
	"rule": "after", "title": sprintf("Runs in %s first", [env.after]),
	"msg": sprintf("release %d is not healthy in %s", [input.release.number, env.after]),
} if {
	not input.removal
	env.after != ""
	not upstream_healthy
}

met contains {
	"rule": "after", "title": sprintf("Runs in %s first", [env.after]),
	"detail": sprintf("%d, healthy", [input.release.number]),
} if {
	not input.removal
	env.after != ""
	upstream_healthy
}

upstream_healthy if {
	input.upstream.healthy
	input.upstream.release >= input.release.number
}

# ── soak: healthy there for long enough; an unhealthy moment starts it again. What
# is newer and has its changes goes on counting, as long as that is healthy ──
soaked_before := object.get(input.upstream, "soaked_seconds", 0)

soaked_at := time.parse_rfc3339_ns(input.upstream.healthy_since) + ((env.soak_seconds - soaked_before) * 1000000000)

soaks if {
	not input.removal
	env.soak_seconds > 0
}

soaked if {
	upstream_healthy
	time.now_ns() >= soaked_at
}

soaked if {
	upstream_healthy
	soaked_before >= env.soak_seconds
}

# Not soaked is open, whatever the reason: where nothing says since when it is
# healthy there is no end to name, but there is no way past either.
need contains object.union(
	{"rule": "soak", "title": sprintf("Soak %s healthy in %s", [span(env.soak_seconds), env.after])},
	soak_ends,
) if {
	soaks
	not soaked
}

soak_ends := {
	"msg": sprintf("not yet %s healthy in %s", [span(env.soak_seconds), env.after]),
	"at": time.format([soaked_at, "UTC", "RFC3339Nano"]),
} if {
	upstream_healthy
	soaked_at
}

else := {"msg": sprintf("soak of %s goes on, after %s, when %s is healthy", [span(env.soak_seconds), span(soaked_before), env.after])} if {
	upstream_healthy
	soaked_before > 0
}

else := {"msg": sprintf("soak of %s begins when it is healthy in %s", [span(env.soak_seconds), env.after])}

met contains {"rule": "soak", "title": sprintf("Soak %s healthy in %s", [span(env.soak_seconds), env.after])} if {
	soaks
	soaked
}

span(s) := sprintf("%d h", [s / 3600]) if s % 3600 == 0

span(s) := sprintf("%d min", [s / 60]) if {
	s % 3600 != 0
	s % 60 == 0
}

span(s) := sprintf("%d s", [s]) if s % 60 != 0

# ── approvals: of this content, by different people, each change's by people who did not write it ──
# May is whether a user's yes counts, apart from what they wrote.
may(u) if {
	env.approvals.from == ""
	u.may_write
}

may(u) if {
	env.approvals.from != ""
	env.approvals.from in u.groups
}

# Of_this is whether a yes was given to exactly what is promoted now.
of_this(a) if {
	input.tree != ""
	a.tree == input.tree
	not a.stale
}

approved := {a.user |
	some a in input.approvals
	a.user != ""
	of_this(a)
	may(a)
}

# Carries are changes with the same authors. What carries none asks for a yes all
# the same, and so does what does not say which change is whose.
carries := input.carries if count(input.carries) > 0

else := [{"changes": [], "authors": input.authors}]

own(name, c) if {
	not env.approvals.own
	name in c.authors
}

given(c) := {u | some u in approved; not own(u, c)}

required := env.approvals.count

# Short are changes that lack a yes of somebody who did not write them.
short := [c | some c in carries; count(given(c)) < required]

could := {u.name |
	some u in input.candidates
	may(u)
	not u.name in approved
	some c in short
	not own(u.name, c)
}

cannot := {u.name |
	some u in input.candidates
	may(u)
	count(short) > 0
	every c in short { own(u.name, c) }
}

lack(c) := required - count(given(c))

least := max({lack(c) | some c in short})

# Nobody is there to give what these lack.
hopeless := [c | some c in short; count({n | some n in could; not own(n, c)}) < lack(c)]

missing := max({least, count(could) + 1}) if count(hopeless) > 0

else := least if {
	some n in could
	every c in short { not own(n, c) }
}

else := least + 1

# People whose only yes was to something else.
outdated := {a.user | some a in input.approvals; not of_this(a)} - {a.user | some a in input.approvals; of_this(a)}

whose := "people who may write" if env.approvals.from == ""

else := env.approvals.from

need contains {
	"rule": "approvals", "title": sprintf("%d %s from %s", [required, plural("approval", required), whose]),
	"msg": approvals_msg,
	"group": env.approvals.from, "count": missing,
	"who": [n | some n in could], "cannot": [n | some n in cannot],
} if {
	count(short) > 0
}

approvals_msg := concat("; ", array.concat([still_missing], array.concat(parts, array.concat(excluded, void))))

still_missing := sprintf("%d %s missing%s", [missing, plural("approval", missing), from_whom])

from_whom := ", and nobody may give it" if count(could) == 0

else := sprintf(", and only %s may still give one", [concat(", ", could)]) if count(could) < missing

else := sprintf(", from %s", [concat(" or ", could)])

# Where one yes does not do for all, which change lacks whose.
parts := [part(c) | some c in short; count(c.changes) > 0] if {
	count(carries) > 1
	count(short) <= 8
}

else := []

part(c) := sprintf("%s by %s needs %s", [named(c), concat(", ", c.authors), helpers(c)])

named(c) := sprintf("%s %s", [plural("change", count(c.changes)), concat(", ", [sprintf("%d", [n]) | some n in c.changes])])

helpers(c) := concat(" or ", who) if {
	who := {n | some n in could; not own(n, c)}
	count(who) > 0
}

else := "somebody else"

excluded := [sprintf("%s wrote part of it and cannot", [concat(", ", cannot)])] if count(cannot) > 0

else := []

void := [sprintf("%s approved something else before", [concat(", ", outdated)])] if count(outdated) > 0

else := []

met contains {
	"rule": "approvals", "title": sprintf("%d %s from %s", [required, plural("approval", required), whose]),
	"detail": sprintf("given by %s", [concat(", ", approved)]),
} if {
	required > 0
	count(short) == 0
}

plural(noun, n) := noun if n == 1

else := sprintf("%ss", [noun])

# ── hold: nothing by itself, until a person promotes forward ──
# Whoever may write can, and so does who gives an approval that is asked for: by
# approving this very content.
lifted if {
	some a in input.approvals
	a.user != ""
	of_this(a)
	a.may_write
}

lifted if count(approved) > 0

need contains {
	"rule": "hold", "title": "No hold",
	"msg": sprintf("held by %s%s; approving this promotes forward and lifts it", [input.hold.by, because]),
	"group": "", "count": lifters, "who": [u.name | some u in input.candidates; u.may_write], "cannot": [],
} if {
	input.hold != null
	not lifted
}

because := sprintf(": %s", [input.hold.reason]) if input.hold.reason != ""

else := ""

# An approval that is missing anyway lifts the hold too; it is counted once.
lifters := 1 if count(short) == 0

else := 0

met contains {"rule": "hold", "title": "No hold", "detail": "lifted by this promotion"} if {
	input.hold != null
	lifted
}

# ── direction: back is a rollback, and says so ──
deny contains {
	"rule": "backwards", "title": "Goes forward",
	"msg": sprintf("release %d is older than release %d, which is declared; going back is a rollback", [input.release.number, input.current_release]),
} if {
	not input.removal
	input.release.number < input.current_release
}
