//! POSIX ACLs as text, from the form in which the kernel keeps them.

/// The text of a `system.posix_acl_*` attribute with numeric ids, if it can be read.
pub fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let entry = |e: &[u8]| {
        let [t0, t1, p0, p1, i0, i1, i2, i3] = *e else { return None };
        let (tag, perm) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let who = match tag {
            0x01 => "user:".to_string(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_string(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_string(),
            0x20 => "other:".to_string(),
            _ => return None,
        };
        let bit = |bit: u16, letter: char| if perm & bit != 0 { letter } else { '-' };
        Some(format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')))
    };
    entries.chunks_exact(8).map(entry).collect::<Option<Vec<_>>>().map(|entries| entries.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_form() {
        let mut value = vec![2, 0, 0, 0];
        for (tag, perm, id) in
            [(1u16, 6u16, u32::MAX), (2, 5, 1001), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, 0)]
        {
            value.extend(tag.to_le_bytes());
            value.extend(perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let said = text(&value);
        assert_eq!(said.as_deref(), Some("user::rw-,user:1001:r-x,group::r--,mask::rwx,other::---"));
        assert_eq!(text(&value[..11]), None);
        assert_eq!(text(&[3, 0, 0, 0]), None);
    }
}
