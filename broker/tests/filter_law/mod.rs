//! What must hold for any bytes as an SQL92 expression and the properties of a message. One function, run by the fuzzer (`fuzz/`) and
//! by the replay beside this folder.

use ledgermq_broker::filter::sql::{EXPRESSION_LEN_MAX, SqlError, SqlFilter};

/// Longest words of an error: it goes into a remark.
const ERROR_LEN_MAX: usize = 400;

/// Most memory of one compiled expression: the bound of a consumer group must leave room for it.
const BYTES_MAX: usize = 128 << 10;

/// Compiles the text before the first zero byte and judges what follows it as a property string. The expression is refused in a few
/// words, or it is small, judges without panicking, and says the same once it was printed and read again.
///
/// # Panics
/// When the law is broken.
pub(crate) fn check(bytes: &[u8]) {
    let zero = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let expression = String::from_utf8_lossy(&bytes[..zero]);
    let properties = String::from_utf8_lossy(bytes.get(zero + 1..).unwrap_or_default());
    let filter = match SqlFilter::parse(&expression) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.to_string().len() <= ERROR_LEN_MAX, "{error}");
            return;
        }
    };
    assert!(expression.len() <= EXPRESSION_LEN_MAX);
    assert!(filter.bytes() + expression.len() <= BYTES_MAX, "{} bytes", filter.bytes());
    assert!(filter.work(properties.len()) >= properties.len());
    let matches = filter.matches(&properties);
    let printed = filter.to_string();
    match SqlFilter::parse(&printed) {
        Ok(again) => {
            assert_eq!(again.to_string(), printed, "read as another expression");
            assert_eq!(again.matches(&properties), matches, "{printed}");
        }
        // Its parentheses are added.
        Err(SqlError::TooLong(_) | SqlError::TooDeep) => {}
        Err(error) => panic!("{printed}: {error}"),
    }
}
