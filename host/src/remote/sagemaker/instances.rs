//! Which machines have which GPUs: AWS names whole machines, our configuration names what they have.

use crate::remote::Resources;

/// Kind of GPU, how many, the machine; the smaller first. G5 and G6 come in sizes that differ in cores and memory alone: of those the
/// cores and memory that were asked for choose.
const MACHINES: &[(&str, u32, &str, u32, u64)] = &[
    ("T4", 1, "ml.g4dn.xlarge", 4, 16),
    ("T4", 1, "ml.g4dn.2xlarge", 8, 32),
    ("T4", 1, "ml.g4dn.4xlarge", 16, 64),
    ("T4", 4, "ml.g4dn.12xlarge", 48, 192),
    ("A10G", 1, "ml.g5.xlarge", 4, 16),
    ("A10G", 1, "ml.g5.2xlarge", 8, 32),
    ("A10G", 1, "ml.g5.4xlarge", 16, 64),
    ("A10G", 1, "ml.g5.8xlarge", 32, 128),
    ("A10G", 1, "ml.g5.16xlarge", 64, 256),
    ("A10G", 4, "ml.g5.12xlarge", 48, 192),
    ("A10G", 4, "ml.g5.24xlarge", 96, 384),
    ("A10G", 8, "ml.g5.48xlarge", 192, 768),
    ("L4", 1, "ml.g6.xlarge", 4, 16),
    ("L4", 1, "ml.g6.2xlarge", 8, 32),
    ("L4", 1, "ml.g6.4xlarge", 16, 64),
    ("L4", 1, "ml.g6.8xlarge", 32, 128),
    ("L4", 4, "ml.g6.12xlarge", 48, 192),
    ("L4", 8, "ml.g6.48xlarge", 192, 768),
    ("L40S", 1, "ml.g6e.xlarge", 4, 32),
    ("L40S", 1, "ml.g6e.2xlarge", 8, 64),
    ("L40S", 1, "ml.g6e.4xlarge", 16, 128),
    ("L40S", 4, "ml.g6e.12xlarge", 48, 384),
    ("L40S", 8, "ml.g6e.48xlarge", 192, 1536),
    ("V100", 1, "ml.p3.2xlarge", 8, 61),
    ("V100", 4, "ml.p3.8xlarge", 32, 244),
    ("V100", 8, "ml.p3.16xlarge", 64, 488),
    ("A100", 8, "ml.p4d.24xlarge", 96, 1152),
    ("A100-80GB", 8, "ml.p4de.24xlarge", 96, 1152),
    ("H100", 1, "ml.p5.4xlarge", 16, 256),
    ("H100", 8, "ml.p5.48xlarge", 192, 2048),
    ("H200", 8, "ml.p5e.48xlarge", 192, 2048),
    ("none", 0, "ml.m5.large", 2, 8),
    ("none", 0, "ml.m5.xlarge", 4, 16),
    ("none", 0, "ml.m5.2xlarge", 8, 32),
    ("none", 0, "ml.m5.4xlarge", 16, 64),
    ("none", 0, "ml.m5.12xlarge", 48, 192),
    ("none", 0, "ml.m5.24xlarge", 96, 384),
];

/// The smallest machine that has what is asked for.
///
/// # Errors
/// In words, what there is instead.
pub(super) fn instance_type(resources: &Resources) -> Result<&'static str, String> {
    let kind = resources.gpu.as_deref().unwrap_or("none");
    let count = if resources.gpu.is_some() { resources.gpu_count } else { 0 };
    let of_kind: Vec<_> = MACHINES.iter().filter(|(gpu, ..)| gpu.eq_ignore_ascii_case(kind)).collect();
    if of_kind.is_empty() {
        let known = kinds().join("`, `");
        return Err(format!(
            "no machine with the GPU `{kind}` is known; known are `{known}`, or name one as `instance_type`"
        ));
    }
    let memory = resources.memory_mib.div_ceil(1024);
    let fits = |machine: &&&(&str, u32, &str, u32, u64)| {
        machine.1 == count && machine.3 >= resources.cpu && machine.4 >= memory
    };
    of_kind.iter().find(fits).map(|machine| machine.2).ok_or_else(|| {
        let told: Vec<_> =
            of_kind.iter().map(|(_, n, name, cpu, gib)| format!("{n} in {name} ({cpu} cores, {gib} GiB)")).collect();
        format!(
            "no machine has {count} x `{kind}`, {} cores and {memory} GiB; there are {}",
            resources.cpu,
            told.join(", ")
        )
    })
}

/// The kinds of GPU that have a machine.
pub(super) fn kinds() -> Vec<&'static str> {
    let mut kinds: Vec<_> = MACHINES.iter().filter(|machine| machine.1 > 0).map(|machine| machine.0).collect();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(gpu: Option<&str>, gpu_count: u32, cpu: u32, memory_mib: u64) -> Result<&'static str, String> {
        instance_type(&Resources { gpu: gpu.map(str::to_owned), gpu_count, nodes: 1, cpu, memory_mib })
    }

    #[test]
    fn the_smallest_machine_that_has_it_is_chosen() {
        assert_eq!(asked(Some("A10G"), 1, 4, 16384), Ok("ml.g5.xlarge"));
        assert_eq!(asked(Some("a10g"), 1, 4, 16385), Ok("ml.g5.2xlarge"));
        assert_eq!(asked(Some("A10G"), 1, 17, 16384), Ok("ml.g5.8xlarge"));
        assert_eq!(asked(Some("A10G"), 4, 4, 16384), Ok("ml.g5.12xlarge"));
        assert_eq!(asked(Some("H100"), 8, 4, 16384), Ok("ml.p5.48xlarge"));
        assert_eq!(asked(None, 1, 4, 16384), Ok("ml.m5.xlarge"));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let told = asked(Some("RTX9000"), 1, 4, 16384).unwrap_err();
        assert!(
            told.starts_with("no machine with the GPU `RTX9000` is known; known are `T4`, `A10G`, `L4`,"),
            "{told}"
        );
        assert_eq!(
            asked(Some("A100"), 3, 4, 16384).unwrap_err(),
            "no machine has 3 x `A100`, 4 cores and 16 GiB; there are 8 in ml.p4d.24xlarge (96 cores, 1152 GiB)"
        );
    }
}
