"""The reader of machine code counts one turn of its main loop, with the loop inside."""

import machine_code
import pytest

SELECT = "        /*0900*/                   SEL R1, R1, RZ, P1 ;"
MASK = "\n".join([SELECT] * 32)
#: A prologue, a loop with chunks of the first product, an edge, a second product, an epilogue.
TEXT = f"""
        /*0000*/                   LDGSTS.E.BYPASS.128 [R29], desc[UR32][R4.64], P1 ;
.L_x_0:
        /*0010*/                   UIADD3 UR13, UR13, 0x1, URZ ;
.L_x_1:
        /*0020*/                   LDGSTS.E.BYPASS.128 [R29], desc[UR32][R4.64], P1 ;
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R88, gdesc[UR20], R88, gsb0 ;
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
        /*0060*/                   FFMA R90, R90, UR14, R228.reuse ;
        /*0070*/                   MUFU.EX2 R90, R89 ;
        /*0080*/              @!P0 BRA `(.L_x_2) ;
{MASK}
.L_x_2:
        /*0a00*/                   F2FP.BF16.F32.PACK_AB R1, R2, R3 ;
        /*0a10*/                   HGMMA.64x64x16.F32.BF16 R24, R120, gdesc[UR16].tnspB, R24 ;
        /*0a20*/               @P6 BRA `(.L_x_3) ;
        /*0a30*/                   REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU desc[UR32][R130.64], R120 ;
.L_x_3:
        /*0a40*/               @P1 BRA `(.L_x_0) ;
        /*0a50*/                   STG.E [R2.64], R3 ;
"""
#: Four warps, 64 x 64 pairs, four chunks of 16.
TILE = machine_code.Tile(64, 64, 16, 4, 4, 1)


def test_a_turn_is_counted_by_class():
    turn = machine_code.main_loop(TEXT, TILE)
    assert turn.edge == 32
    assert turn.opcode("HGMMA") == 5  # four trips of the loop within, and one
    assert turn.opcode("LDGSTS") == 4
    assert turn.opcode("REDG") == turn.opcode("MUFU.EX2") == turn.opcode("F2FP") == 1
    assert turn.flops == 5 * 2 * 64 * 64 * 16
    assert turn.counts["mufu"] == 1
    assert turn.counts["all"] == 1 + 4 * 4 + 8
    assert turn.per_pair("mufu", TILE) == 32 * 4 / 64**2


def test_a_loop_that_is_unrolled_counts_as_turns():
    body = TEXT.split(".L_x_2:")[1].split(".L_x_3:")[0].replace("@P6 BRA `(.L_x_3)", "NOP")
    text = f".L_x_0:\n{body}{body}        /*0b00*/               @P1 BRA `(.L_x_0) ;\n"
    turn = machine_code.main_loop(text, machine_code.Tile(64, 64, 16, 1, 4, 0))
    assert turn.opcode("HGMMA") == 1
    assert turn.counts["atomics"] == 1


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(255, 112, 8, 1), (128, 112, 8, 2), (64, 10, 8, 4), (32, 0, 32, 2), (168, 60, 4, 3)],
)
def test_programs_of_a_processor(registers, shared, warps, programs):
    assert machine_code.programs_per_sm(registers, shared, warps) == programs


def test_products_of_one_warp_and_of_four():
    def flops(opcode, suffix):
        return machine_code.Instruction(opcode, suffix, "", False).flops()

    assert flops("HGMMA", ".64x128x16.F32.BF16") == 2 * 64 * 128 * 16 // 4
    assert flops("HMMA", ".16816.F32.BF16") == 2 * 16 * 8 * 16
    assert flops("HMMA", ".1688.F32.TF32") == 2 * 16 * 8 * 8
    assert flops("FFMA", "") == 64


def test_a_missing_disassembler_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nvdisasm is not in"):
        machine_code.disassembled(b"", tmp_path)


def test_code_without_products_is_refused():
    with pytest.raises(ValueError, match="no loop"):
        machine_code.main_loop("        /*0000*/    EXIT ;\n", TILE)


def test_a_program_of_one_tile_is_a_turn_with_its_loops():
    tile = machine_code.Tile(64, 64, 16, 4, 4, 0, whole=True)
    turn = machine_code.main_loop(TEXT.replace("@P1 BRA `(.L_x_0)", "NOP"), tile)
    assert turn.opcode("LDGSTS") == 5
    assert turn.opcode("STG") == 1
