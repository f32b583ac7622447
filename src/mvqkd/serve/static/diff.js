// Which words two texts do not share: the complement of their longest common subsequence.

// Beyond it the table would take long and much memory; nobody reads so long a text word by word.
const MAX_WORDS = 3000;

// Two arrays of words -> two arrays of booleans, true where a word has no partner; null for texts too long.
export function differing(left, right) {
  if (left.length > MAX_WORDS || right.length > MAX_WORDS) return null;
  const columns = right.length + 1;
  const length = new Uint16Array((left.length + 1) * columns);
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      length[i * columns + j] = left[i] === right[j]
        ? length[(i + 1) * columns + j + 1] + 1
        : Math.max(length[(i + 1) * columns + j], length[i * columns + j + 1]);
    }
  }
  const marks = [left.map(() => true), right.map(() => true)];
  for (let i = 0, j = 0; i < left.length && j < right.length;) {
    if (left[i] === right[j]) {
      marks[0][i++] = false;
      marks[1][j++] = false;
    } else if (length[(i + 1) * columns + j] >= length[i * columns + j + 1]) i++;
    else j++;
  }
  return marks;
}
