//! Code that would let something into a training set that no person approved does not compile.

#[test]
fn nothing_unapproved_can_be_written_into_a_training_set() {
    trybuild::TestCases::new().compile_fail("tests/not_approved/*.rs");
}
