# May drift be healed? Anything but auto means: report it and leave it.
package headgate.converge

deny := set()

need := set()

met contains {"rule": "heal", "title": "Drift is healed"}
