//! A server that takes a whole connection for authenticated by one request on it, as NTLM has it: `login=1`.
//!
//! - `Authorization: NTLM hello`: 401 with a challenge; then, on the same connection, `Authorization: NTLM user:NAME`.
//! - `Authorization: Negotiate user:NAME`: the user is known at once, and the answer says nothing of it.
//! - Without such a header the connection's user is served, if it has one.

use crate::script::Script;

/// What a connection knows of its user.
#[derive(Default)]
pub struct Login {
    user: Option<String>,
    challenged: bool,
}

impl Login {
    /// Makes the answer of a request's script, if it wants one: 401, or 200 with the name of the user in its body.
    pub fn apply(&mut self, script: &mut Script, authorization: Option<&str>, connection: u64) {
        if !script.login {
            return;
        }
        let (scheme, token) = authorization.unwrap_or("").split_once(' ').unwrap_or_default();
        let is_expected = scheme.eq_ignore_ascii_case("negotiate") || self.challenged;
        if scheme.is_empty() {
        } else if let Some(name) = token.strip_prefix("user:").filter(|_| is_expected) {
            self.user = Some(name.into());
        } else {
            self.user = None;
        }
        self.challenged = scheme.eq_ignore_ascii_case("ntlm") && token == "hello";
        let who = match &self.user {
            Some(name) => name.as_str(),
            None => {
                script.status = Some(401);
                let challenges: &[&str] =
                    if self.challenged { &["NTLM challenge"] } else { &["Negotiate", "NTLM"] };
                script
                    .headers
                    .extend(challenges.iter().map(|value| ("WWW-Authenticate".into(), (*value).into())));
                "nobody"
            }
        };
        script.body.get_or_insert_with(|| format!("{who} on {connection}\n").into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(login: &mut Login, authorization: Option<&str>) -> String {
        let mut script = Script { login: true, ..Script::default() };
        login.apply(&mut script, authorization, 1);
        String::from_utf8(script.body.unwrap()).unwrap()
    }

    #[test]
    fn binds_a_user_to_the_connection() {
        let mut login = Login::default();
        assert_eq!(ask(&mut login, None), "nobody on 1\n");
        assert_eq!(ask(&mut login, Some("NTLM user:a")), "nobody on 1\n");
        assert_eq!(ask(&mut login, Some("NTLM hello")), "nobody on 1\n");
        assert_eq!(ask(&mut login, Some("NTLM user:a")), "a on 1\n");
        assert_eq!(ask(&mut login, None), "a on 1\n");
        assert_eq!(ask(&mut login, Some("Negotiate user:b")), "b on 1\n");
        assert_eq!(ask(&mut login, Some("Negotiate broken")), "nobody on 1\n");
    }
}
