// How far a mask can be trusted, from what one network can tell: see segment/quality.py.

const LEAST = 0.005;

/** One less Dice of two masks. */
export function disagreement(first, second) {
  let pixels = 0, different = 0;
  for (let at = 0; at < first.length; at++) {
    pixels += first[at] + second[at];
    different += first[at] !== second[at] ? 1 : 0;
  }
  return pixels ? different / pixels : 0;
}

/** The variance of a prediction's pixels, summed, a pixel of lung. */
export function doubt(probability) {
  let sum = 0, lung = 0;
  for (const value of probability) {
    sum += value * (1 - value);
    lung += value > 0.5 ? 1 : 0;
  }
  return sum / Math.max(lung, 1);
}

/**
 * What Dice is to be expected of a mask, by what one network alone can tell.
 *
 * @returns {{dice: number, reason: string}} The reason is empty where nothing speaks against it.
 */
export function expectedDice(mask, mirror, probability, quality) {
  const measures = [disagreement(mask, mirror), doubt(probability)];
  const weighed = measures.map((one, at) => quality.weights[at] * Math.log2(1 + one / LEAST));
  const score = weighed.reduce((sum, one) => sum + one, 0);
  const dice = interpolated(score, quality.scores, quality.dices);
  const worst = weighed.indexOf(Math.max(...weighed));
  return { dice, reason: dice < quality.lookBelow ? quality.reasons[worst] : "" };
}

function interpolated(score, scores, dices) {
  if (score <= scores[0]) return dices[0];
  const at = scores.findIndex(one => one >= score);
  if (at < 0) return dices[dices.length - 1];
  const share = (score - scores[at - 1]) / (scores[at] - scores[at - 1]);
  return dices[at - 1] + share * (dices[at] - dices[at - 1]);
}
