//! What a query of the dashboard is made of: its metrics, and what is wrong with their names and labels.
//!
//! It knows as much of PromQL as the dashboard uses, and refuses the rest. Whether a query parses, and what it comes
//! to, is for `promtool` to say.

use walferry::telemetry::metrics::{Kind, METRICS, Metric};

/// Labels that each series has, besides those that the list of metrics names.
const EVERYWHERE: &[&str] = &["stream", "instance"];

/// Words that are neither a metric nor a function.
const OPERATORS: &[&str] = &["and", "or", "unless"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Range(&'a str),
    Number,
    Mark(char),
}

/// A metric's name with the conditions on its labels.
struct Selector<'a> {
    name: &'a str,
    metric: Option<&'static Metric>,
    conditions: Vec<(&'a str, &'a str)>,
    /// Its token.
    place: usize,
    /// The function that it is the argument of.
    within: Option<&'a str>,
}

/// The labels that something is grouped `by` or matched `on`.
struct Labels<'a> {
    word: &'a str,
    labels: Vec<&'a str>,
    /// The first token behind.
    end: usize,
}

/// A query, taken apart.
#[derive(Default)]
pub struct Expression<'a> {
    tokens: Vec<Token<'a>>,
    selectors: Vec<Selector<'a>>,
    lists: Vec<Labels<'a>>,
    /// Each range, with the function that it is for.
    ranges: Vec<(&'a str, Option<&'a str>)>,
    faults: Vec<String>,
}

impl<'a> Expression<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut this = Self { tokens: tokens(text), ..Self::default() };
        let mut open: Vec<Option<&str>> = vec![];
        let mut place = 0;
        while let Some(token) = this.tokens.get(place).copied() {
            let next = this.tokens.get(place + 1).copied();
            let within = open.iter().rev().find_map(|function| *function);
            place = match token {
                Token::Word(word @ ("by" | "on")) => this.list(word, place + 1),
                Token::Word(word) if next == Some(Token::Mark('(')) && !OPERATORS.contains(&word) => {
                    open.push(Some(word));
                    place + 2
                }
                Token::Word(word) if OPERATORS.contains(&word) || next == Some(Token::Word("by")) => place + 1,
                Token::Word(name) => this.selector(name, place, within),
                Token::Range(range) => {
                    this.ranges.push((range, within));
                    place + 1
                }
                Token::Mark('(') => {
                    open.push(None);
                    place + 1
                }
                Token::Mark(')') => {
                    open.pop();
                    place + 1
                }
                Token::Mark('{') => {
                    this.faults.push("conditions without a metric".to_owned());
                    place + 1
                }
                Token::Text(_) | Token::Number | Token::Mark(_) => place + 1,
            };
        }
        this
    }

    /// Takes the list of labels that begins here, and says where it ends.
    fn list(&mut self, word: &'a str, place: usize) -> usize {
        let end = self.end(place, '(', ')');
        let labels = self.tokens[place..end].iter().filter_map(|token| match token {
            Token::Word(label) => Some(*label),
            _ => None,
        });
        self.lists.push(Labels { word, labels: labels.collect(), end });
        if word == "by" && self.tokens.get(end) != Some(&Token::Mark('(')) {
            self.faults.push("by (…) belongs before what is grouped".to_owned());
        }
        end
    }

    /// Takes the metric that is here with its conditions, and says where they end.
    fn selector(&mut self, name: &'a str, place: usize, within: Option<&'a str>) -> usize {
        let end = self.end(place + 1, '{', '}');
        let conditions = self.tokens[place + 1..end].split(|token| *token == Token::Mark(','));
        let conditions = conditions.filter_map(|condition| {
            let label = condition.iter().find_map(|token| match token {
                Token::Word(label) => Some(*label),
                _ => None,
            });
            let value = condition.iter().find_map(|token| match token {
                Token::Text(value) => Some(*value),
                _ => None,
            });
            label.zip(value)
        });
        let conditions = conditions.collect();
        self.selectors.push(Selector { name, metric: metric(name), conditions, place, within });
        end
    }

    /// Where what is between these marks ends, if it begins here.
    fn end(&self, place: usize, first: char, last: char) -> usize {
        if self.tokens.get(place) != Some(&Token::Mark(first)) {
            return place;
        }
        let length = self.tokens[place..].iter().position(|token| *token == Token::Mark(last));
        length.map_or(self.tokens.len(), |length| place + length + 1)
    }

    /// The names of its metrics, as in the list.
    pub fn metrics(&self) -> impl Iterator<Item = &'static str> {
        self.selectors.iter().filter_map(|selector| selector.metric).map(|metric| metric.name)
    }

    /// The labels that its outcome has.
    pub fn labels(&self) -> Vec<&'a str> {
        match (self.lists.iter().find(|list| list.word == "by"), self.selectors.first()) {
            (Some(list), _) => list.labels.clone(),
            (None, Some(selector)) => selector.labels(),
            (None, None) => vec![],
        }
    }

    /// Names and labels that there are not.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        for selector in &self.selectors {
            if selector.metric.is_none() {
                faults.push(format!("there is no metric {}", selector.name));
            }
            faults.extend(selector.lacks(selector.conditions.iter().map(|(label, _)| *label)));
        }
        for Labels { word, labels, end } in &self.lists {
            let before = self.selectors.iter().rfind(|selector| *word == "on" && selector.place < *end);
            let after = self.selectors.iter().find(|selector| selector.place >= *end);
            for selector in before.into_iter().chain(after) {
                faults.extend(selector.lacks(labels.iter().copied()));
            }
        }
        faults
    }

    /// These, and what a panel may not do besides: leave out what the viewer chose, or look back for another time than
    /// its width asks for.
    pub fn faults_in_panel(&self) -> Vec<String> {
        let mut faults = self.faults();
        for selector in &self.selectors {
            for choice in ["stream", "target"].into_iter().filter(|label| selector.labels().contains(label)) {
                let variable = format!("${choice}");
                if !selector.conditions.iter().any(|(label, value)| *label == choice && value.starts_with(&variable)) {
                    faults.push(format!("{} is of every {choice}, not of {variable}", selector.name));
                }
            }
            let rises = selector.metric.is_some_and(|metric| metric.kind != Kind::Gauge);
            if rises && !matches!(selector.within, Some("rate" | "increase")) {
                faults.push(format!("{} only rises: its rate or increase says something", selector.name));
            }
        }
        for (range, function) in &self.ranges {
            let free = function.is_some_and(|function| function.ends_with("_over_time"));
            if !free && range.split(':').next() != Some("$__rate_interval") {
                faults.push(format!("[{range}] is not $__rate_interval"));
            }
        }
        faults
    }
}

impl Selector<'_> {
    fn labels(&self) -> Vec<&'static str> {
        let bucket: &[&str] = if self.name.ends_with("_bucket") { &["le"] } else { &[] };
        [EVERYWHERE, self.metric.map_or(&[][..], |metric| metric.labels), bucket].concat()
    }

    /// Those of these labels that it has not; of a metric that there is not, nothing can be said.
    fn lacks<'a>(&self, labels: impl Iterator<Item = &'a str>) -> Vec<String> {
        let strangers = labels.filter(|label| self.metric.is_some() && !self.labels().contains(label));
        strangers.map(|label| format!("{} has no label {label}", self.name)).collect()
    }
}

/// The metric whose series have this name; a histogram's have three others.
fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| match (metric.kind, name.strip_prefix(metric.name)) {
        (Kind::Histogram, Some(rest)) => matches!(rest, "_bucket" | "_sum" | "_count"),
        (_, rest) => rest == Some(""),
    })
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let mut tokens = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let inner = &rest[first.len_utf8()..];
        let upto = |end: char| &inner[..inner.find(end).unwrap_or(inner.len())];
        let (token, length) = match first {
            '"' => (Token::Text(upto('"')), upto('"').len() + 2),
            '[' => (Token::Range(upto(']')), upto(']').len() + 2),
            _ if is_word(first) => {
                let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
                (if first.is_ascii_digit() { Token::Number } else { Token::Word(word) }, word.len())
            }
            _ => (Token::Mark(first), first.len_utf8()),
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    tokens
}
