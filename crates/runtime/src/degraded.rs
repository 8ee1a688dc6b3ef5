//! What sandboxes lack on a machine, in words for its operator.

use crate::cgroup::Controller;
use crate::prepare::MAX_PROCESSES_WITHOUT_GROUP;

const MEND: &str = "run Selvedge as root, or as a systemd service with Delegate=yes";

/// One sentence for each thing, with what follows from it and what mends it.
pub(crate) fn words(missing: &[Controller], filters_calls: bool) -> Vec<String> {
    let mut words = Vec::new();
    let lacks = |controller| missing.contains(&controller);
    if lacks(Controller::Memory) {
        words.push(format!(
            "no control group can be made to limit memory, so each process of a build or workload \
             may use its whole limit, up to {MAX_PROCESSES_WITHOUT_GROUP} processes and threads \
             for each app: {MEND}"
        ));
    } else if lacks(Controller::Processes) {
        words.push(format!(
            "no control group can be made to limit processes, so all builds and workloads of an \
             app share one limit, and what starts processes without end is stopped by its time \
             limit alone: {MEND}"
        ));
    }
    if lacks(Controller::Cpu) {
        words.push(format!(
            "no control group can be made to limit processor time, so a build or workload that \
             never rests slows everything else down: {MEND}"
        ));
    }
    if !filters_calls {
        words.push(
            "system calls are not filtered, because this processor's are not known to Selvedge: \
             run builds and workloads that you don't trust on x86-64 or arm64"
                .to_owned(),
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_missing_is_told() {
        assert_eq!(words(&[], true), Vec::<String>::new());
        let all = words(&Controller::ALL, false);
        assert_eq!(all.len(), 3);
        for (words, start) in all.iter().zip([
            "no control group can be made to limit memory",
            "no control group can be made to limit processor time",
            "system calls are not filtered",
        ]) {
            assert!(words.starts_with(start) && words.contains(": run "), "{words}");
        }
        assert_eq!(words(&[Controller::Processes], true).len(), 1);
    }
}
