# A team's program around what the pages print for FastAPI. The test puts the pages' text
# in the place of the lines "BLOCK", and runs it with uvicorn.
import itertools

from fastapi import Header  # what the page's table assumes


class Member:
    def __init__(self, id, phone, role="member", banned=False):
        self.id, self.phone, self.role, self.banned = id, phone, role, banned


class members:
    known = [Member(7, "+8613800138000", "admin"), Member(8, "+8613600136000", banned=True)]
    ids = itertools.count(9)

    @classmethod
    def handle(cls, e):
        phone, id = e.get("phone"), e.get("userId")
        m = next((m for m in cls.known if (m.phone == phone if phone else str(m.id) == id)), None)
        if e["type"] == "user.erase":
            cls.known = [k for k in cls.known if k is not m]
            return None
        if m is None and phone:
            m = Member(next(cls.ids), phone)
            cls.known.append(m)
        return m


# BLOCK users

# BLOCK tokens


@app.get("/verified")
def verified(user: str = Depends(user_id)):
    return {"userId": user}


# BLOCK headers
    return {"userId": x_wx_user_id, "phone": x_wx_phone}
