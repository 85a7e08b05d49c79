//! What expressions mean, which are refused and why, and the laws that hold for all of them. `tests/tests/sql92.rs` compares with
//! RocketMQ's engine.

use proptest::prelude::*;

use super::*;

/// A property string of pairs.
fn properties(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}\u{1}{value}\u{2}")).collect()
}

fn matches(expression: &str, pairs: &[(&str, &str)]) -> bool {
    match SqlFilter::parse(expression) {
        Ok(filter) => filter.matches(&properties(pairs)),
        Err(error) => panic!("{expression}: {error}"),
    }
}

/// The value of a boolean expression: TRUE, FALSE, NULL, or none.
fn value(expression: &str, pairs: &[(&str, &str)]) -> &'static str {
    let is = |test: &str| matches(&test.replace('E', expression), pairs);
    match (matches(&format!("({expression})"), pairs), is("NOT (E)"), is("(E) IS NULL")) {
        (true, false, false) => "TRUE",
        (false, true, false) => "FALSE",
        (false, false, true) => "NULL",
        (false, false, false) => "none",
        more => panic!("{expression} has more than one value: {more:?}"),
    }
}

fn error(expression: &str) -> String {
    match SqlFilter::parse(expression) {
        Ok(filter) => panic!("{expression} is read as {filter}"),
        Err(error) => error.to_string(),
    }
}

/// The grammar as it is documented: a consumer that moves here must get the same messages.
#[test]
fn every_operator_means_what_users_of_rocketmq_know() {
    let order = [("price", "42"), ("city", "Rom"), ("TAGS", "paid"), ("note", "it's a 'gift'"), ("weight", "1.50")];
    for (expression, expected) in [
        ("price = 42", "TRUE"),
        ("price <> 42", "FALSE"),
        ("price > 41 AND price < 43", "TRUE"),
        ("price >= 42 AND price <= 42", "TRUE"),
        ("price BETWEEN 40 AND 42", "TRUE"),
        ("price NOT BETWEEN 40 AND 42", "FALSE"),
        ("price not between 1 and 5", "TRUE"),
        ("city = 'Rom'", "TRUE"),
        ("city IN ('Paris', 'Rom')", "TRUE"),
        ("city NOT IN ('Paris', 'Rom')", "FALSE"),
        ("city IS NOT NULL AND land IS NULL", "TRUE"),
        ("land = 'IT'", "NULL"),
        ("land <> 'IT'", "NULL"),
        ("land IN ('IT')", "NULL"),
        ("land NOT IN ('IT')", "NULL"),
        ("city CONTAINS 'o'", "TRUE"),
        ("city NOT CONTAINS 'o'", "FALSE"),
        ("city STARTSWITH 'Ro' AND city ENDSWITH 'om'", "TRUE"),
        ("city NOT STARTSWITH 'x' AND city NOT ENDSWITH 'x'", "TRUE"),
        ("land CONTAINS 'x'", "FALSE"),
        ("land NOT CONTAINS 'x'", "FALSE"),
        ("city CONTAINS ''", "FALSE"),
        ("TAGS = 'paid'", "TRUE"),
        ("tags = 'paid'", "NULL"),
        ("note = 'it''s a ''gift'''", "TRUE"),
        ("weight > 1.4999 AND weight < 15.01E-1", "TRUE"),
        ("weight = 1.5", "TRUE"),
        ("TRUE", "TRUE"),
        ("FALSE OR price = 42", "TRUE"),
        ("price = -42 OR price = + 42", "TRUE"),
        ("-price = -42", "NULL"),
        ("price", "FALSE"),
        ("NOT price", "TRUE"),
        ("land", "NULL"),
        ("(price = 42) = TRUE", "TRUE"),
        ("price = 42 -- the answer\n AND /* a * comment */ city = 'Rom'", "TRUE"),
    ] {
        assert_eq!(value(expression, &order), expected, "{expression}");
    }
    assert!(matches("a = '订单😀'", &[("a", "订单😀")]));
    assert!(matches("a = '2'", &[("a", "1"), ("b", "x"), ("a", "2")]), "the last one counts");
}

/// Three-valued logic: what is not there is neither equal nor different, and only what decides is looked at.
#[test]
fn null_and_what_has_no_value() {
    let one = [("a", "1"), ("x", "abc")];
    for (expression, expected) in [
        ("b = 1 OR a = 1", "TRUE"),
        ("b = 1 OR a = 2", "NULL"),
        ("b = 1 AND a = 1", "NULL"),
        ("b = 1 AND a = 2", "FALSE"),
        ("NOT (b = 1)", "NULL"),
        ("NOT (NOT (b = 1)) IS NULL", "TRUE"),
        ("b = c", "TRUE"),
        ("a = b", "FALSE"),
        ("b = a", "NULL"),
        ("NULL", "NULL"),
        ("NULL IS NULL", "TRUE"),
        // A text that is no number beside one: no value at all, unless what came before decides.
        ("x > 1", "none"),
        ("x > 1 OR a = 1", "none"),
        ("a = 1 OR x > 1", "TRUE"),
        ("a = 2 AND x > 1", "FALSE"),
        ("(x > 1) IS NULL", "none"),
        ("b > x", "NULL"),
        ("x > b", "NULL"),
        ("x > a", "none"),
        // NOT binds tightly.
        ("NOT a = 1", "FALSE"),
        ("NOT (a = 1)", "FALSE"),
        ("NOT (a = 2)", "TRUE"),
        ("a = TRUE", "FALSE"),
        ("a = FALSE", "TRUE"),
        ("TRUE = a", "none"),
        ("1 = TRUE", "FALSE"),
    ] {
        assert_eq!(value(expression, &one), expected, "{expression}");
    }
}

/// Numbers: the size of the literal says which texts count as numbers.
#[test]
fn conversions_of_texts_to_numbers() {
    for (expression, a, expected) in [
        ("a > 5", "6", "TRUE"),
        ("a > 5", "+6", "TRUE"),
        ("a > 5", "6.0", "none"),
        ("a > 5", " 6", "none"),
        ("a > 5", "3000000000", "none"),
        ("a > 5.0", "3000000000", "TRUE"),
        ("a > 5L", "3000000000", "none"),
        ("a > 2147483648", "3000000000", "TRUE"),
        ("a >= 9223372036854775807", "9223372036854775807", "TRUE"),
        ("a = -2147483648", "-2147483648", "TRUE"),
        ("a > 5.0", " 6.0f ", "TRUE"),
        ("a > 5.0", "NaN", "TRUE"),
        ("a < 5.0", "-Infinity", "TRUE"),
        ("a = 1.0", "1", "TRUE"),
        ("a = '1.0'", "1", "FALSE"),
        ("5 < a", "6", "TRUE"),
        ("1.5 < a", "x", "none"),
        ("a BETWEEN -5 AND 5", "0", "TRUE"),
        ("a BETWEEN 5 AND -5", "0", "FALSE"),
        ("a NOT BETWEEN 5 AND 1", "3", "TRUE"),
        ("a = --5", "5", "TRUE"),
    ] {
        assert_eq!(value(expression, &[("a", a)]), expected, "{expression} with {a}");
    }
    assert_eq!(value("a > b", &[("a", "10"), ("b", "9.5")]), "TRUE");
    assert_eq!(value("a BETWEEN b AND c", &[("a", "10"), ("b", "9.5"), ("c", "1e1")]), "TRUE");
}

/// An error must say where it is and what to write: it is all that a developer sees of the broker.
#[test]
fn errors_name_the_place_and_the_mend() {
    for (expression, words) in [
        ("", "at character 1: the end where a literal, a property or `(` should be"),
        ("a >", "at character 4: the end where a literal, a property or `(` should be"),
        ("a LIKE 'x%'", "at character 3: `LIKE` where an operator or the end should be"),
        ("a = 1 b = 2", "at character 7: `b` where an operator or the end should be"),
        ("(a = 1", "at character 7: the end where an operator or `)` should be"),
        ("a = 007", "at character 6: `0` where an operator or the end should be"),
        ("名 = 1", "at character 1: `名` where a literal, a property or an operator should be"),
        ("a != 1", "at character 3: `!` where a literal, a property or an operator should be"),
        ("a = 'open", "at character 5: `'open` where a text that ends with a quote should be"),
        ("a IN (1, 2)", "at character 7: `1` where a text in single quotes should be"),
        ("a IN ('x'", "at character 10: the end where `,` or `)` should be"),
        ("a IS 5", "at character 6: `5` where NULL or NOT NULL should be"),
        ("a NOT LIKE 'x'", "at character 7: `LIKE` where BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH should be"),
        ("a = NULL", "at character 5: nothing can be compared with NULL: write IS NULL or IS NOT NULL"),
        ("a > 'x'", "at character 5: only numbers and properties are ordered by >, >=, <, <= and BETWEEN"),
        ("NOT a > 5", "at character 1: only numbers and properties are ordered by >, >=, <, <= and BETWEEN"),
        ("a BETWEEN 5 AND 1", "at character 11: the first number of BETWEEN must not be greater than the second one"),
        ("TRUE = 5", "at character 8: TRUE and FALSE cannot be compared with a number or a text"),
        ("5 IN ('x')", "at character 1: only a property can stand before IN"),
        ("a = 1 AND 5", "at character 11: a condition should stand here, not a value"),
        ("9223372036854775808 = a", "at character 1: an integer must not be greater than 9223372036854775807"),
        ("a > 0.0", "at character 5: a decimal must be from 4.9E-324 to 1.7976931348623157E308; zero is written as 0"),
    ] {
        assert_eq!(error(expression), words, "{expression}");
    }
    let long = error(&format!("a = '{}", "x".repeat(1000)));
    assert!(long.len() < 150, "{long}");
}

/// No expression may cost more than it is allowed to, in depth, time or memory.
#[test]
fn bounds_are_exact() {
    let nested = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    SqlFilter::parse(&nested(NESTING_MAX)).unwrap();
    assert_eq!(SqlFilter::parse(&nested(NESTING_MAX + 1)), Err(SqlError::TooDeep));
    for deep in ["NOT ", "-", "+", "("] {
        assert_eq!(SqlFilter::parse(&deep.repeat(1000)), Err(SqlError::TooDeep), "{deep}");
    }
    let linked = |links: usize| format!("a{}", " IS NULL".repeat(links));
    SqlFilter::parse(&linked(NESTING_MAX - 1)).unwrap();
    assert_eq!(SqlFilter::parse(&linked(NESTING_MAX)), Err(SqlError::TooDeep));

    // A long chain is not deep.
    let chain = |operands: usize| vec!["a = 1"; operands].join(" OR ");
    SqlFilter::parse(&chain((TERMS_MAX - 1) / 3)).unwrap();
    assert_eq!(SqlFilter::parse(&chain(TERMS_MAX / 3 + 1)), Err(SqlError::TooManyTerms));

    let list = |items: usize| format!("a IN ({})", vec!["'x'"; items].join(","));
    SqlFilter::parse(&list(ITEMS_MAX)).unwrap();
    assert_eq!(SqlFilter::parse(&list(ITEMS_MAX + 1)), Err(SqlError::TooManyItems));
    let names = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>().join(" OR ");
    SqlFilter::parse(&names(PROPERTIES_MAX)).unwrap();
    assert_eq!(SqlFilter::parse(&names(PROPERTIES_MAX + 1)), Err(SqlError::TooManyProperties));
    let text = |len: usize| format!("a = '{}'", "x".repeat(len - 6));
    let longest = SqlFilter::parse(&text(EXPRESSION_LEN_MAX)).unwrap();
    assert!(longest.bytes() >= EXPRESSION_LEN_MAX);
    assert_eq!(SqlFilter::parse(&text(EXPRESSION_LEN_MAX + 1)), Err(SqlError::TooLong(EXPRESSION_LEN_MAX + 1)));
    assert_eq!(longest.work(100), 200);
}

/// Words of expressions, in an order that nobody chose.
fn jumble() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "a",
        "b",
        "TAGS",
        "'x'",
        "'it''s'",
        "''",
        "1",
        "2147483648",
        "1.5",
        ".5e2",
        "TRUE",
        "FALSE",
        "NULL",
        "=",
        "<>",
        ">",
        ">=",
        "<",
        "<=",
        "(",
        ")",
        ",",
        "+",
        "-",
        "NOT",
        "AND",
        "OR",
        "BETWEEN",
        "IN",
        "IS",
        "CONTAINS",
        "STARTSWITH",
        "ENDSWITH",
        "--",
        "/*",
        "*/",
        "\n",
        "'",
        "é",
        "1e",
        "0",
        "L",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.join(" "))
}

/// Expressions that compile, most of them.
fn expression() -> impl Strategy<Value = String> {
    let value = || {
        prop_oneof![
            4 => prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned),
            1 => any::<i64>().prop_map(|number| number.saturating_abs().to_string()),
            1 => (-20..20i32).prop_map(|number| number.to_string()),
            1 => (1..1000u32).prop_map(|number| format!("{}.5", number)),
            1 => "'[a-c1-3 ]{0,3}'",
            1 => Just("TRUE".to_owned()),
        ]
    };
    let comparison = prop::sample::select(vec!["=", "<>", ">", ">=", "<", "<="]);
    let leaf = prop_oneof![
        (value(), comparison, value()).prop_map(|(left, comparison, right)| format!("{left} {comparison} {right}")),
        (value(), any::<bool>()).prop_map(|(of, not)| format!("{of} IS {}NULL", if not { "NOT " } else { "" })),
        (value(), value(), value()).prop_map(|(of, low, high)| format!("{of} NOT BETWEEN {low} AND {high}")),
        "[abc] (NOT )?(CONTAINS|STARTSWITH|ENDSWITH) '[a-c1-3]{0,2}'",
        "[abc] (NOT )?IN \\('[a-c1-3]{0,2}'(, '[a-c1-3]{0,2}'){0,6}\\)",
        "[abc]",
    ];
    leaf.prop_recursive(5, 32, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) AND {right}")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} OR ({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) = ({right})")),
            inner.prop_map(|of| format!("NOT ({of})")),
        ]
    })
}

/// Property strings, regular and not.
fn any_properties() -> impl Strategy<Value = String> {
    let value = prop_oneof!["[a-c1-3]{0,3}", "-?[0-9]{1,11}", "[0-9]{1,3}\\.[0-9]{1,2}", Just("true".to_owned())];
    let pair = ("[abc]", value).prop_map(|(name, value)| format!("{name}\u{1}{value}\u{2}"));
    prop_oneof![
        4 => prop::collection::vec(pair, 0..5).prop_map(|pairs| pairs.concat()),
        1 => "[abc\u{1}\u{2}1]{0,20}",
    ]
}

proptest! {
    /// Whatever a client sends, it gets an answer.
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![jumble(), ".{0,60}"], properties in any_properties()) {
        match SqlFilter::parse(&text) {
            Ok(filter) => { filter.matches(&properties); }
            Err(error) => prop_assert!(error.to_string().len() < 250),
        }
    }

    /// The tree is what the text says: printed with all its parentheses it is read as the same tree, and judges alike.
    #[test]
    fn what_is_printed_is_read_back(text in prop_oneof![expression(), jumble()], properties in any_properties()) {
        if let Ok(filter) = SqlFilter::parse(&text) {
            let printed = filter.to_string();
            let again = SqlFilter::parse(&printed);
            prop_assert_eq!(again.as_ref().map(|again| &again.root), Ok(&filter.root), "{}", printed);
            prop_assert_eq!(again.unwrap().matches(&properties), filter.matches(&properties));
        }
    }

    /// The laws of three-valued logic, for expressions and messages that nobody chose.
    #[test]
    fn laws_of_logic(a in expression(), b in expression(), properties in any_properties()) {
        let is = |text: String| SqlFilter::parse(&text).map(|filter| filter.matches(&properties));
        if let (Ok(a_is), Ok(b_is)) = (is(format!("({a})")), is(format!("({b})"))) {
            let not_a = is(format!("NOT ({a})")).unwrap();
            let null_a = is(format!("({a}) IS NULL")).unwrap();
            prop_assert!(u8::from(a_is) + u8::from(not_a) + u8::from(null_a) <= 1);
            prop_assert_eq!(is(format!("NOT (NOT ({a}))")).unwrap(), a_is);
            prop_assert_eq!(is(format!("({a}) AND ({b})")).unwrap(), a_is && b_is);
            // What has no value spoils what comes after it.
            let has_value = a_is || not_a || null_a;
            prop_assert_eq!(is(format!("({a}) OR ({b})")).unwrap(), a_is || (has_value && b_is));
        }
    }
}

/// What a message costs, a usual one and the worst that the bounds allow:
/// `cargo test -p ledgermq-broker --lib -- --ignored --nocapture sql_filter_cost`.
#[test]
#[ignore = "measures"]
fn sql_filter_cost() {
    use std::hint::black_box;
    use std::time::Instant;

    use ledgermq_protocol::message::properties::MAX_PROPERTIES_LEN;

    let usual = properties(&[
        ("KEYS", "order-1234"),
        ("UNIQ_KEY", "7F0000010A1B2C3D4E5F60718293A4B5"),
        ("WAIT", "true"),
        ("price", "120"),
        ("TAGS", "paid"),
    ]);
    let big = format!("a\u{1}{}\u{2}", "x".repeat(MAX_PROPERTIES_LEN - 3));
    let search = "a CONTAINS 'xy'";
    let searches = vec![search; (EXPRESSION_LEN_MAX + 4) / (search.len() + 4)].join(" OR ");
    let many: String = (0..MAX_PROPERTIES_LEN / 4).map(|_| "x\u{1}1\u{2}").collect();
    let names = (0..PROPERTIES_MAX).map(|n| format!("p{n} = 1")).collect::<Vec<_>>().join(" OR ");
    for (what, expression, properties, rounds) in [
        ("usual", "price > 100 AND TAGS = 'paid'", &usual, 1_000_000),
        ("longest searches", searches.as_str(), &big, 20),
        ("most names", names.as_str(), &many, 1_000),
    ] {
        let begin = Instant::now();
        let compiles = 100;
        for _ in 0..compiles {
            black_box(SqlFilter::parse(black_box(expression)).unwrap());
        }
        let compile = begin.elapsed() / compiles;
        let filter = SqlFilter::parse(expression).unwrap();
        let begin = Instant::now();
        for _ in 0..rounds {
            black_box(filter.matches(black_box(properties)));
        }
        let one = begin.elapsed() / rounds;
        println!(
            "{what}: compiled in {compile:?}, {} bytes; a message takes {one:?}, counted as {}",
            filter.bytes(),
            filter.work(properties.len())
        );
    }
}
