package headgate.converge_test

import data.headgate.converge

test_drift_is_healed if {
	count(converge.deny) == 0
	count(converge.need) == 0
	count(converge.met) == 1
}
