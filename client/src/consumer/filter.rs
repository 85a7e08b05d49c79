//! What a consumer wants of a topic: an expression that goes to the brokers with heartbeats and pulls, and is judged there.

use ledgermq_protocol::heartbeat::{SubscriptionData, TYPE_SQL92, TYPE_TAG};
use ledgermq_protocol::message::tags::{self, TagFilter};

use crate::error::ConfigError;

/// Which messages of a topic are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `*` for all, else up to 1,024 tags separated by `||`.
    Tags(String),
    /// An SQL92 expression over message properties, such as `price > 5 AND TAGS = 'paid'`. Brokers check it: each pull fails if it is
    /// wrong.
    Sql(String),
}

impl Filter {
    /// All messages.
    pub(crate) fn all() -> Self {
        Self::Tags("*".to_owned())
    }

    /// The expression as it is sent.
    pub(crate) fn expression(&self) -> &str {
        match self {
            Self::Tags(expression) | Self::Sql(expression) => expression,
        }
    }

    /// Its type as brokers name it.
    pub(crate) fn expression_type(&self) -> &'static str {
        match self {
            Self::Tags(_) => TYPE_TAG,
            Self::Sql(_) => TYPE_SQL92,
        }
    }

    /// The tags, when messages have to have one of them: brokers compare hashes only, so their texts are compared again.
    ///
    /// # Errors
    /// [`ConfigError::Value`] under this key, for what cannot be an expression.
    pub(crate) fn tags(&self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        let bad = |mend| ConfigError::Value { key, value: self.expression().to_owned(), mend };
        match self {
            Self::Tags(expression) => match TagFilter::parse(expression) {
                Ok(TagFilter::All) => Ok(None),
                Ok(TagFilter::Codes(_)) => Ok(Some(tags::tags(expression).map(str::to_owned).collect())),
                Err(_) => Err(bad("give * or up to 1,024 tags separated by ||")),
            },
            Self::Sql(expression) if expression.trim().is_empty() => Err(bad("give an expression such as a > 5")),
            Self::Sql(_) => Ok(None),
        }
    }

    /// The subscription as a heartbeat brings it; `version` is the clock in ms.
    ///
    /// # Errors
    /// As [`Self::tags`].
    pub(crate) fn subscription(
        &self,
        key: &'static str,
        topic: &str,
        version: i64,
    ) -> Result<SubscriptionData, ConfigError> {
        self.tags(key)?;
        Ok(match self {
            Self::Tags(expression) => SubscriptionData::by_tags(topic, expression, version)
                .expect("an expression of tags that was read once is read again"),
            Self::Sql(expression) => SubscriptionData::by_sql(topic, expression, version),
        })
    }
}
