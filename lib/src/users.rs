// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users, by name and number.

/// The id of the real user, and behind a `/` that of the user whose rights count, where it is another.
pub fn uids(real: u32, effective: u32) -> String {
    if real == effective { real.to_string() } else { format!("{real}/{effective}") }
}

/// The user id of a name or number.
///
/// # Errors
/// A sentence for the user.
pub fn uid(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    lookup_user(text).ok_or_else(|| format!("there is no user {text:?} on this host"))
}

#[cfg(not(target_feature = "crt-static"))]
fn lookup_user(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// A static binary has no name service: it knows the users in /etc/passwd.
#[cfg(target_feature = "crt-static")]
fn lookup_user(name: &str) -> Option<u32> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_one_or_two() {
        assert_eq!(uids(7, 7), "7");
        assert_eq!(uids(0, 65534), "0/65534");
    }

    #[test]
    fn users_by_name_and_number() {
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("12"), Ok(12));
        assert!(uid("no such user").is_err());
    }
}
