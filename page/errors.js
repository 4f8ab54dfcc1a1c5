// What a user is told: the rule, what arrived, what to do.

export class FilmError extends Error {
  constructor(rule, received, advice) {
    super(`${rule} ${received}. ${advice}`);
    Object.assign(this, { name: "FilmError", rule, received, advice });
  }
}
