// Who is in which group: asked for once for all that changes until its turn comes, and a few times a second at most,
// since the server counts these requests.

const PAUSE = 250;

export class Roster {
  /**
   * @param store what is shown
   * @param ask asks the server, see Session
   */
  constructor(store, ask) {
    this.store = store;
    this.ask = ask;
    this.waiting = new Map();
    this.looking = false;
  }

  /** Learn the members of a group; resolves when they are in the store. */
  refresh(group) {
    let turn = this.waiting.get(group);
    if (!turn) {
      turn = {};
      turn.done = new Promise((resolve, reject) => Object.assign(turn, { resolve, reject }));
      this.waiting.set(group, turn);
      if (!this.looking) this.look();
    }
    return turn.done;
  }

  async look() {
    this.looking = true;
    while (this.waiting.size) {
      const [group, { resolve, reject }] = this.waiting.entries().next().value;
      this.waiting.delete(group);
      try {
        if (this.store.groups.has(group)) this.store.setMembers(group, (await this.ask("group.members", { group })).members);
        resolve();
      } catch (error) {
        reject(error);
      }
      await new Promise((resume) => setTimeout(resume, PAUSE));
    }
    this.looking = false;
  }
}
