// A group: what it is about, who is in it, and what one may do there.

import { avatar, confirmed, h, iconButton, reconcile, showDialog } from "./dom.js";
import { explain, problemLine } from "./form.js";
import { peopleFinder } from "./view_new.js";
import { go } from "./route.js";

const ROLES = { owner: "Owner", admin: "Admin", member: "Member" };

export function groupDialog(store, session, group) {
  const { name } = store.groups.get(group);
  return showDialog(name, (close) => {
    const trouble = problemLine();
    const members = h("ul", { class: "members" });
    const finder = peopleFinder(store, session, "Who?", ({ id }) => {
      const member = store.groups.get(group)?.members?.find((each) => each.id === id);
      if (member) return [h("span", { class: "tag" }, ROLES[member.role])];
      return [h("button", { class: "button slim", type: "button", on: { click: () => act("group.add", { id }) } }, "Add")];
    });
    const inside = h("div", { class: "form" }, h("h3", null, "Add somebody"), finder);

    const act = async (type, fields) => {
      trouble.say("");
      try {
        await session.changeMembers(type, group, fields);
      } catch (error) {
        trouble.say(explain(error));
      }
      await refresh();
    };

    async function refresh() {
      try {
        await session.refreshMembers(group);
      } catch (error) {
        trouble.say(explain(error));
      }
      render();
    }

    function render() {
      const entry = store.groups.get(group);
      if (!entry) return;
      const rows = entry.members ?? [];
      reconcile(members, rows.map((member) => memberItem(entry, member)));
      // Also where somebody has chosen another one, and it was refused or not meant.
      for (const { id, role } of rows) {
        const select = members.querySelector(`select[data-id="${id}"]`);
        if (select) select.value = role;
      }
      inside.hidden = entry.role === "member";
      finder.refresh();
    }

    function memberItem(entry, { id, name: who, role, online }) {
      const mine = id === store.me.id;
      const change = entry.role === "owner" && !mine;
      const removable = !mine && (entry.role === "owner" || (entry.role === "admin" && role === "member"));
      const there = online && !mine && store.link.state === "online";
      return {
        key: String(id),
        // A row in which a role is chosen stays when it changes: what is in it is being pressed, or has the focus.
        print: JSON.stringify([who, there, change || role, removable]),
        make: () => h("li", { class: "row" },
          avatar(who, id, { size: "small", online: there }),
          h("span", { class: "row-text" }, h("span", { class: "row-name one-line" }, mine ? `${who} (you)` : who)),
          change
            ? h("select", { class: "select", "aria-label": `Role of ${who}`, data: { id }, on: { change: (event) => giveRole(who, id, event.target.value) } },
              Object.entries(ROLES).map(([value, label]) => h("option", { value }, label)))
            : h("span", { class: "tag" }, ROLES[role]),
          removable && iconButton("close", `Remove ${who}`, () => act("group.remove", { id }))),
      };
    }

    async function giveRole(who, id, role) {
      if (role === "owner" && !await confirmed(`Hand the group over to ${who}? You stay as an admin.`, "Hand over")) {
        render();
        return;
      }
      act("group.role", { id, role });
    }

    const leave = h("button", {
      class: "button wide danger", type: "button",
      on: {
        click: async () => {
          if (!await confirmed(`Leave ${name}?`, "Leave")) return;
          trouble.say("");
          try {
            await session.ask("group.leave", { group });
            close();
            go("");
            await session.refreshGroups();
          } catch (error) {
            trouble.say(error.name === "forbidden" ? "Hand the group over to somebody before you leave." : explain(error));
          }
        },
      },
    }, "Leave the group");

    // Those that are known at once: what is below them is pressed where it is seen.
    render();
    refresh();
    const { description } = store.groups.get(group);
    return [
      h("div", null,
        description && h("p", null, description),
        h("p", { class: "quiet" }, `Number ${group}. Who has it can join, unless the group is by invitation only.`)),
      h("section", null, h("h3", null, "Members"), members),
      trouble,
      inside,
      leave,
    ];
  });
}
