# mypy: ignore-errors
# Triton is untyped, and what is in a kernel is Triton's language, not Python's.
"""The Triton kernels of `cuda` and `row_update`. Importing this needs Triton; they do so when first used.

The sums work on *bags*: bag b owns entries `offsets[b]:offsets[b + 1]` of the entry arrays. Bags are a pattern's rows, or its
latents once the entries are in latent order. Lengths vary widely: one latent may fire on every token. So a bag is cut into
pieces of at most PIECE entries, counted from its start, and one program does one piece. The grid must not depend on data
on the device, so later pieces get slots by their position among all entries: slot q holds the piece that starts in
[q · PIECE, (q + 1) · PIECE). Two later pieces never start closer than PIECE, so a slot holds one piece or none, and
(nnz - 1) // PIECE slots are enough. Only the bag that covers entry q · PIECE can have its piece in slot q.

Every sum is taken in an order that only the pattern decides. There are no atomics: same inputs, same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes that change from batch to batch; Triton would compile again for a multiple of 16, and for 1. The number of columns does
# not change, and only if it is known to be a multiple of 16 are rows read in 16-byte pieces.
_SIZES = ("n_bags", "slots")


@triton.jit
def _piece(offsets, n_bags, slots, PIECE: tl.constexpr):
    """This program's bag, its number of the bag's pieces, first entry and end. An empty slot's piece has end = first entry.

    Later pieces come first in the grid: they are the long ones, and should not start last.
    """
    program = tl.program_id(0)
    is_later = program < slots
    position = (program + 1).to(tl.int64) * PIECE
    # The last bag that starts at or before `position`, by bisection.
    low = tl.where(is_later, 0, program - slots)
    high = tl.where(is_later, n_bags, program - slots + 1)
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(offsets + middle) <= position
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(offsets + low)
    end = tl.load(offsets + low + 1)
    number = tl.where(is_later, (position - start + PIECE - 1) // PIECE, 0)
    begin = start + number * PIECE
    # A bag that starts in the slot's window and at `position` itself, or ends before the window's piece, has none there.
    has_work = ((number > 0) | (program >= slots)) & (begin < end)
    end = tl.where(has_work, tl.minimum(end, begin + PIECE), begin)
    return low, number, begin, end


@triton.jit(do_not_specialize=_SIZES)
def sum_rows(
    members, weights, table, offsets, out, partial, n_bags, slots,
    D: tl.constexpr, PIECE: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr, SUM_IN: tl.constexpr,
):  # fmt: skip
    """out[b] = Σ weights[j] · table[members[j]] over the first piece of bag b; partial[q - 1] the same for slot q.

    Grid: (slots + n_bags, blocks of D). Loads ENTRIES rows at once, so that as many are on their way together.
    """
    bag, _, begin, end = _piece(offsets, n_bags, slots, PIECE)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_row = columns < D
    total = tl.zeros([BLOCK], dtype=SUM_IN)
    for first in range(begin, end, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        there = entries < end
        member = tl.load(members + entries, mask=there, other=0)
        weight = tl.load(weights + entries, mask=there, other=0.0).to(SUM_IN)
        where = table + member[:, None] * D + columns[None, :]
        rows = tl.load(where, mask=there[:, None] & in_row[None, :], other=0.0).to(SUM_IN)
        total += tl.sum(weight[:, None] * rows, axis=0)
    if tl.program_id(0) < slots:
        tl.store(partial + tl.program_id(0).to(tl.int64) * D + columns, total, mask=in_row)
    else:
        tl.store(out + bag.to(tl.int64) * D + columns, total, mask=in_row)


@triton.jit(do_not_specialize=_SIZES)
def add_later_pieces(
    offsets, out, partial, n_bags, slots,
    D: tl.constexpr, PIECE: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr, SUM_IN: tl.constexpr,
):  # fmt: skip
    """Add the partial sums of every bag's later pieces to its first one's. Grid: (slots, blocks of D).

    The program of a bag's second piece does the bag; the pieces after that one are in the slots that follow.
    """
    bag, number, begin, end = _piece(offsets, n_bags, slots, PIECE)
    if (number == 1) & (end > begin):
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        in_row = columns < D
        target = out + bag.to(tl.int64) * D + columns
        total = tl.load(target, mask=in_row, other=0.0)
        count = (tl.load(offsets + bag + 1) - begin + PIECE - 1) // PIECE
        for first in range(0, count, ENTRIES):
            pieces = first + tl.arange(0, ENTRIES)
            where = partial + (tl.program_id(0) + pieces)[:, None].to(tl.int64) * D + columns[None, :]
            mask = (pieces < count)[:, None] & in_row[None, :]
            total += tl.sum(tl.load(where, mask=mask, other=0.0), axis=0)
        tl.store(target, total, mask=in_row)


@triton.jit(do_not_specialize=_SIZES)
def dot_rows(
    members, left, right, offsets, out, n_bags, slots,
    D: tl.constexpr, PIECE: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr, SUM_IN: tl.constexpr,
):  # fmt: skip
    """out[j] = left[b] · right[members[j]] for every entry j of bag b. Grid: (slots + n_bags,).

    A left row that fits one block is loaded once; a wider one is taken block by block, and again for the next entries.
    """
    bag, _, begin, end = _piece(offsets, n_bags, slots, PIECE)
    left_row = left + bag.to(tl.int64) * D
    columns = tl.arange(0, BLOCK)
    held = tl.load(left_row + columns, mask=columns < D, other=0.0).to(SUM_IN)
    for first in range(begin, end, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        there = entries < end
        member = tl.load(members + entries, mask=there, other=0)
        where = right + member[:, None] * D + columns[None, :]
        rows = tl.load(where, mask=there[:, None] & (columns < D)[None, :], other=0.0).to(SUM_IN)
        products = held[None, :] * rows
        for done in range(BLOCK, D, BLOCK):
            in_row = done + columns < D
            piece = tl.load(left_row + done + columns, mask=in_row, other=0.0).to(SUM_IN)
            rows = tl.load(where + done, mask=there[:, None] & in_row[None, :], other=0.0).to(SUM_IN)
            products += piece[None, :] * rows
        tl.store(out + entries, tl.sum(products, axis=1), mask=there)


@triton.jit
def row_square_norms(weight, grad, along, out, D: tl.constexpr, BLOCK: tl.constexpr, ON_SPHERE: tl.constexpr):
    """along[row] = the row's grad · weight, out[row] = the squared norm of what is across. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    where = row * D + columns
    g = tl.load(grad + where, mask=columns < D, other=0.0)
    if ON_SPHERE:
        w = tl.load(weight + where, mask=columns < D, other=0.0)
        inner = tl.sum(g * w, axis=0)
        tl.store(along + row, inner)
        g -= inner * w
    tl.store(out + row, tl.sum(g * g, axis=0))


@triton.jit
def update_row(
    weight, grad, m, v, along, clip, follower, rate, keep_m, take_m, keep_v, take_v, root, eps, share,
    D: tl.constexpr, BLOCK: tl.constexpr, ON_SPHERE: tl.constexpr, FOLLOWS: tl.constexpr,
):  # fmt: skip
    """One row's Adam step, in place. Grid: (rows,). The row stays in registers between its one load and its one store."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    in_row = columns < D
    where = row * D + columns
    w = tl.load(weight + where, mask=in_row, other=0.0)
    before = w
    g = tl.load(grad + where, mask=in_row, other=0.0)
    if ON_SPHERE:
        g -= tl.load(along + row) * w
    g *= tl.load(clip)
    mean = keep_m * tl.load(m + where, mask=in_row, other=0.0) + take_m * g
    square = keep_v * tl.load(v + where, mask=in_row, other=0.0) + take_v * g * g
    w -= rate * mean / (tl.sqrt_rn(square) / root + eps)
    if ON_SPHERE:
        # Columns beyond the row were loaded as zero and stay zero.
        w /= tl.maximum(tl.sqrt_rn(tl.sum(w * w, axis=0)), 1e-8)
    tl.store(m + where, mean, mask=in_row)
    tl.store(v + where, square, mask=in_row)
    tl.store(weight + where, w, mask=in_row)
    if FOLLOWS:
        f = tl.load(follower + where, mask=in_row, other=0.0) + share * (w - before)
        tl.store(follower + where, f, mask=in_row)


@triton.jit
def count_positive(dense, counts, n_latents, BLOCK: tl.constexpr):
    """counts[row] = how many of the row's numbers are above zero. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.int32)
    for first in range(0, n_latents, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        value = tl.load(dense + row * n_latents + columns, mask=columns < n_latents, other=0.0).to(tl.float32)
        total += (value > 0).to(tl.int32)
    tl.store(counts + row, tl.sum(total, axis=0).to(tl.int64))


@triton.jit(do_not_specialize=("place",))
def place_positive(dense, starts, indices, n_latents, place, BLOCK: tl.constexpr):
    """indices[starts[row]:] = the columns of the row's numbers above zero, none of them at `place` or after. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(starts + row)
    for first in range(0, n_latents, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        value = tl.load(dense + row * n_latents + columns, mask=columns < n_latents, other=0.0).to(tl.float32)
        positive = (value > 0).to(tl.int32)
        slots = slot + tl.cumsum(positive, axis=0) - positive
        tl.store(indices + slots, columns.to(tl.int64), mask=(positive > 0) & (slots < place))
        slot += tl.sum(positive, axis=0)


@triton.jit
def _in_order(bits, MASK: tl.constexpr):
    """Integers that order as the numbers of these bits do, and back again."""
    return tl.where(bits < 0, bits ^ MASK, bits)


@triton.jit(do_not_specialize=("n_groups",))
def group_maxima(bits, out, n_columns, n_groups, GROUP: tl.constexpr, GROUPS: tl.constexpr, MASK: tl.constexpr):
    """out[row, g] = the bits of the largest of the row's GROUP numbers from g · GROUP on. Grid: (rows, groups / GROUPS)."""
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    columns = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    there = columns < n_columns
    found = tl.load(bits + row * n_columns + columns, mask=there, other=0).to(tl.int32)
    keys = tl.where(there, _in_order(found, MASK), -MASK - 1)
    largest = _in_order(tl.max(keys, axis=1), MASK)
    tl.store(out + row * n_groups + groups, largest.to(out.dtype.element_ty), mask=groups < n_groups)


@triton.jit(do_not_specialize=("n_searched", "k"))
def search_row(
    bits, groups, out, n_columns, n_searched, k,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, MASK: tl.constexpr, N_BITS: tl.constexpr,
):  # fmt: skip
    """out[row] = the columns, ascending, of the k largest of the row's numbers in its k groups. Grid: (rows,).

    Groups of one: of its first n_searched numbers. The k-th largest is found bit by bit, from the top: a bit is set if k
    numbers are still as large. Of those equal to it the first fill up.
    """
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.arange(0, BLOCK)
    there = numbers < n_searched
    if GROUP > 1:
        group = tl.load(groups + row * k + numbers // GROUP, mask=there, other=0)
        columns = group * GROUP + numbers % GROUP
        there &= columns < n_columns
    else:
        columns = numbers
    keys = _in_order(tl.load(bits + row * n_columns + columns, mask=there, other=0).to(tl.int32), MASK)
    kth = tl.where(tl.sum((there & (keys >= 0)).to(tl.int32), axis=0) >= k, 0, -MASK - 1)
    for done in tl.static_range(2, N_BITS + 1):
        higher = kth + (1 << (N_BITS - done))
        kth = tl.where(tl.sum((there & (keys >= higher)).to(tl.int32), axis=0) >= k, higher, kth)
    above = (there & (keys > kth)).to(tl.int32)
    equal = (there & (keys == kth)).to(tl.int32)
    first = tl.cumsum(equal, axis=0) <= k - tl.sum(above, axis=0)
    chosen = above + tl.where(first, equal, 0)
    slots = tl.cumsum(chosen, axis=0) - chosen
    tl.store(out + row * k + slots, columns.to(out.dtype.element_ty), mask=chosen > 0)
