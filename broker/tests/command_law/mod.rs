//! What must hold for any bytes that stand in the log as a command. One function, run by the fuzzer (`fuzz/`) and by the replay
//! beside this folder.

use bytes::Bytes;
use ledgermq_broker::command::{COMMAND_LEN_MAX, Command};
use ledgermq_dledger::ApplyError;

/// The Raft index that errors must name.
const INDEX: u64 = 9;

/// Reads `bytes` as a command: it is refused with an error that names its entry, or it is checked and comes out again as it went in.
///
/// # Panics
/// When the law is broken.
pub(crate) fn check(bytes: &[u8]) {
    let command = match Command::decode(INDEX, Bytes::copy_from_slice(bytes)) {
        Ok(command) => command,
        Err(ApplyError::UnknownCommand { index, .. } | ApplyError::Malformed { index, .. }) => {
            assert_eq!(index, INDEX, "an error that names another entry");
            return;
        }
        Err(other) => panic!("decoding touches no store: {other}"),
    };
    assert_eq!(command.check(), Ok(()), "a command that was read passes its own check");
    let encoded = command.encode();
    assert_eq!(encoded.len(), command.encoded_len());
    // Unknown fields are dropped and the rest is written canonically, so never longer than the longest that is read.
    assert!(encoded.len() <= COMMAND_LEN_MAX, "{} bytes of a command that was read", encoded.len());
    let again = Command::decode(INDEX, encoded.clone()).expect("what was written is read");
    assert_eq!(again, command);
    assert_eq!(again.encode(), encoded);
}
