//! Memory that is needed soon is fetched while something else is done: with very many tests, what a probe is
//! judged by lies in no cache, and waiting for it takes longer than judging.

/// Octets that memory is fetched by.
const LINE: usize = 64;

/// Has the first octets of a value fetched. Where it is not known how, the processor finds out by itself.
#[inline]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "fetches nothing"))]
pub fn prefetch<T: ?Sized>(value: &T, octets: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        let before = first.addr() % LINE;
        for offset in (0..before + octets.min(size_of_val(value))).step_by(LINE) {
            #[expect(unsafe_code, reason = "there is no other way to ask for memory without waiting for it")]
            // SAFETY: a prefetch reads nothing that the program could see, and cannot fault.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_sub(before).wrapping_add(offset));
            }
        }
    }
}
