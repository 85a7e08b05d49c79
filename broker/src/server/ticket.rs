//! stub
use ledgermq_protocol::remoting::command::RemotingCommand;
/// stub
#[derive(Debug)]
pub struct Completed;
impl Completed {
    pub(super) fn into_answer(self) -> Option<RemotingCommand> {
        None
    }
}
