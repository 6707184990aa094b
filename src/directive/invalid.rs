//! What is wrong with the arguments of a directive, and what is allowed.
#![forbid(unsafe_code)]

use std::fmt;

/// What is wrong with the arguments of a directive. Displayed in nginx's style, with what is allowed; nginx adds the file
/// and the line.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid<'a> {
    /// An argument is not valid. Fields: the directive, the argument, what is allowed.
    Argument(&'static str, &'a [u8], Allowed),
    /// An argument is not a header name, or one that the directive does not accept. Fields: the directive, the argument, what
    /// is allowed.
    Header(&'static str, &'a [u8], Allowed),
    /// An argument is there twice. Fields: the directive, the argument.
    Repeated(&'static str, &'a [u8]),
    /// The value of a parameter is not valid. Fields: the parameter, what is allowed.
    Value(&'a [u8], Allowed),
    /// The directive has no such parameter. Fields: the parameter, what is allowed.
    Parameter(&'a [u8], Allowed),
    /// A parameter is there twice.
    Duplicate(&'a [u8]),
}

/// What is allowed instead of something that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The end of the message.
    Words(&'static str),
    /// A number from the first to the second one.
    Number(usize, usize),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Number(least, most) => write!(f, "it must be a number from {least} to {most}"),
        }
    }
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |word| String::from_utf8_lossy(word);
        match self {
            Self::Argument(directive, word, allowed) => {
                write!(f, "invalid value \"{}\" in \"{directive}\" directive, {allowed}", text(word))
            }
            Self::Header(directive, word, allowed) => {
                write!(f, "invalid header name \"{}\" in \"{directive}\" directive, {allowed}", text(word))
            }
            Self::Repeated(directive, word) => {
                write!(f, "duplicate value \"{}\" in \"{directive}\" directive", text(word))
            }
            Self::Value(word, allowed) => write!(f, "invalid value \"{}\", {allowed}", text(word)),
            Self::Parameter(word, allowed) => write!(f, "invalid parameter \"{}\", {allowed}", text(word)),
            Self::Duplicate(word) => write!(f, "duplicate parameter \"{}\"", text(word)),
        }
    }
}
