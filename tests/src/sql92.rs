//! RocketMQ's own engine of SQL92 filters (its Maven artifact rocketmq-filter, 5.4.0) beside ours, on expressions and messages that
//! nobody chose.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ledgermq_broker::filter::sql::{SqlError, SqlFilter};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};

use crate::java::built_by_maven;

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql92");

/// An expression and the property string of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The expression.
    pub expression: String,
    /// The property string.
    pub properties: String,
}

/// What an engine says to a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is no expression.
    Refused,
    /// The message is handed out.
    Matches,
    /// It is not: FALSE, NULL, or something was compared that cannot be.
    Differs,
}

/// What RocketMQ's engine says to each case.
///
/// # Errors
/// When it cannot be built or run.
pub fn verdicts_of_rocketmq(cases: &[Case]) -> Result<Vec<Verdict>> {
    let built = built_by_maven("sql92", PROJECT, &[])?;
    let mut java = Command::new("java")
        .env("LC_ALL", "C.UTF-8")
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/classes:{}/lib/*", built.display(), built.display()))
        .arg("io.ledgermq.sql92.Judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start java")?;
    let mut lines = String::new();
    for case in cases {
        writeln!(lines, "{} {}", hex(&case.expression), hex(&case.properties))?;
    }
    let mut input = java.stdin.take().context("no pipe to java")?;
    // It answers while it reads: neither side may wait for the other.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = java.wait_with_output()?;
    writer.join().expect("the writer does not panic").context("java stopped reading")?;
    ensure!(output.status.success(), "java ended with {}", output.status);
    let printed = String::from_utf8(output.stdout)?;
    let verdicts: Vec<Verdict> = printed.lines().map(verdict).collect::<Result<_>>()?;
    ensure!(verdicts.len() == cases.len(), "{} verdicts for {} cases", verdicts.len(), cases.len());
    Ok(verdicts)
}

fn verdict(line: &str) -> Result<Verdict> {
    Ok(match line {
        "refused" => Verdict::Refused,
        "true" => Verdict::Matches,
        "false" | "null" | "threw" => Verdict::Differs,
        other => bail!("java printed {other:?}"),
    })
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What our engine says to a case; `None` for what it refuses on purpose, whatever RocketMQ does: text behind a whole expression, and
/// what passes our bounds.
pub fn our_verdict(case: &Case) -> Option<Verdict> {
    match SqlFilter::parse(&case.expression) {
        Ok(filter) if filter.matches(&case.properties) => Some(Verdict::Matches),
        Ok(_) => Some(Verdict::Differs),
        Err(SqlError::Unexpected { expected: "an operator or the end", .. }) => None,
        Err(SqlError::Unexpected { .. } | SqlError::Meaning { .. }) => Some(Verdict::Refused),
        Err(_) => None,
    }
}

/// Makes cases; the same ones for the same seed.
#[derive(Debug)]
pub struct Cases {
    rng: StdRng,
}

/// Names of properties in expressions and messages.
const NAMES: [&str; 5] = ["a", "b", "c", "TAGS", "_x$1"];

/// Values of properties: numbers of every size and form, texts that are nearly numbers, and others.
const VALUES: [&str; 40] = [
    "0",
    "1",
    "2",
    "-1",
    "+1",
    "007",
    "5",
    "10",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "1.0",
    "1.5",
    "-0.0",
    "0.0",
    "1e1",
    "1.",
    ".5",
    "1f",
    "2D",
    "1e400",
    "NaN",
    "-Infinity",
    " 1",
    "1 ",
    "true",
    "TRUE",
    "false",
    "x",
    "abc",
    "ab",
    "b",
    "it's",
    "订单",
    "é😀",
    "1\u{1}2",
    "--",
];

/// Literals of expressions, some of which are none.
const LITERALS: [&str; 44] = [
    "0",
    "1",
    "2",
    "5",
    "10",
    "1L",
    "2147483647",
    "2147483648",
    "3l",
    "9223372036854775807",
    "9223372036854775808",
    "007",
    "0L",
    "1.0",
    "1.5",
    "0.0",
    "1.",
    ".5",
    "1e1",
    "1E-1",
    "15e-1",
    "4.9E-324",
    "1e-400",
    "1e400",
    "1.5L",
    "TRUE",
    "false",
    "NULL",
    "null",
    "''",
    "'1'",
    "'1.0'",
    "'x'",
    "'abc'",
    "'ab'",
    "'b'",
    "'it''s'",
    "''''",
    "'订单'",
    "'é😀'",
    "'true'",
    "'unended",
    "0x1",
    "1e",
];

const COMPARISONS: [&str; 8] = ["=", "<>", ">", ">=", "<", "<=", "!=", "=="];

const BLANKS: [&str; 6] = [" ", "  ", "\t", "\n", " /* c * d */ ", " -- e\n"];

impl Cases {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// The next case.
    pub fn next_case(&mut self) -> Case {
        let depth = self.rng.random_range(0..4);
        let mut expression = self.condition(depth);
        // Some are wrapped so that FALSE, NULL and what has no value can be told apart, and some are broken.
        match self.rng.random_range(0..12) {
            0 | 1 => expression = format!("NOT ({expression})"),
            2 | 3 => expression = format!("({expression}) IS NULL"),
            4 => self.damage(&mut expression),
            _ => {}
        }
        Case { expression, properties: self.properties() }
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.rng).expect("there are some")
    }

    fn chance(&mut self, of: u32) -> bool {
        self.rng.random_ratio(1, of)
    }

    fn properties(&mut self) -> String {
        let count = self.rng.random_range(0..6);
        (0..count).map(|_| format!("{}\u{1}{}\u{2}", self.one(&NAMES), self.one(&VALUES))).collect()
    }

    fn condition(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.test();
        }
        let deeper = depth - 1;
        match self.rng.random_range(0..10) {
            0..=2 => format!("{} {} {}", self.condition(deeper), self.keyword("AND"), self.condition(deeper)),
            3..=5 => format!("{} {} {}", self.condition(deeper), self.keyword("OR"), self.condition(deeper)),
            6 => format!("({})", self.condition(deeper)),
            7 => format!("{} {}", self.keyword("NOT"), self.condition(deeper)),
            8 => format!("{} ({})", self.keyword("NOT"), self.condition(deeper)),
            _ => format!("({}) {} ({})", self.condition(deeper), self.one(&COMPARISONS), self.condition(deeper)),
        }
    }

    fn test(&mut self) -> String {
        let blank = self.one(&BLANKS);
        match self.rng.random_range(0..14) {
            0..=4 => format!("{}{blank}{}{blank}{}", self.value(), self.one(&COMPARISONS), self.value()),
            5 | 6 => {
                let not = self.not();
                format!(
                    "{} {not}{}{blank}{} {} {}",
                    self.value(),
                    self.keyword("BETWEEN"),
                    self.value(),
                    self.keyword("and"),
                    self.value()
                )
            }
            7 | 8 => {
                let count = self.rng.random_range(0..8);
                let items: Vec<String> = (0..count).map(|_| self.text()).collect();
                format!("{} {}{}{blank}({})", self.value(), self.not(), self.keyword("IN"), items.join(", "))
            }
            9 | 10 => {
                let search = self.one(&["CONTAINS", "STARTSWITH", "ENDSWITH"]);
                format!("{} {}{} {}", self.value(), self.not(), self.keyword(search), self.text())
            }
            11 | 12 => format!("{}{blank}IS {}NULL", self.value(), self.not()),
            _ => self.value(),
        }
    }

    fn not(&mut self) -> &'static str {
        if self.chance(2) { "NOT " } else { "" }
    }

    fn keyword(&mut self, word: &str) -> String {
        if self.chance(4) { word.to_ascii_lowercase() } else { word.to_owned() }
    }

    fn text(&mut self) -> String {
        if self.chance(16) {
            return self.value();
        }
        format!("'{}'", self.one(&VALUES).replace('\'', "''"))
    }

    fn value(&mut self) -> String {
        match self.rng.random_range(0..16) {
            0..=8 => self.one(&NAMES).to_owned(),
            9..=12 => self.one(&LITERALS).to_owned(),
            13 => format!("-{}", self.one(&LITERALS)),
            14 => format!("{} {}", self.one(&["-", "+", "- -", "--"]), self.one(&NAMES)),
            _ => format!("({})", self.one(&NAMES)),
        }
    }

    /// Takes a character out, doubles one, or puts one in.
    fn damage(&mut self, expression: &mut String) {
        let places: Vec<usize> = expression.char_indices().map(|(at, _)| at).collect();
        let at = *places.choose(&mut self.rng).expect("no expression is empty");
        match self.rng.random_range(0..3) {
            0 => drop(expression.remove(at)),
            1 => expression.insert(at, expression[at..].chars().next().unwrap_or(' ')),
            _ => expression.insert_str(
                at,
                self.one(&["(", ")", "'", ",", "=", ".", "e", "9", "é", "--", "/*", "*/", "\n", "NOT ", ";"]),
            ),
        }
    }
}
